
-- Rows of a log follow one another, each behind its length: one byte, or 255 and two more. Answers the bytes of that length, and of all.
local function measure(rows, at)
  local length = byte(rows, at)
  if length < 255 then return 1, 1 + length end
  return 3, 3 + unpack('>I2', rows, at + 1)
end
