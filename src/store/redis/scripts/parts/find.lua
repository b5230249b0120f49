
-- The event that was born there and waits again elsewhere: its field now and its record. Nil: it does not wait.
local function moved(q, s, field)
  local row = call('HGET', s, field)
  if not row then return nil end
  local hlen = unpack('>I2', row, 3)
  if byte(row, hlen + 3) % 32 < 16 then return nil end
  local at = hlen + 16
  if byte(row, hlen + 3) % 8 >= 4 then at = at + 7 end
  local place = sub(field, 1, 1) .. sub(row, at, at + 5)
  local rec = call('HGET', q, place)
  if rec then return place, rec end
  return nil
end

-- The event that was born there: its field now and its record. Nil: it does not wait.
local function find(q, s, field)
  local rec = call('HGET', q, field)
  if rec then return field, rec end
  return moved(q, s, field)
end
