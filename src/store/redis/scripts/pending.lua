-- Pending: KEYS device, queue. ARGV: 1 last number read of the first queue, 2 of the rest, 3 limit, 4 now.
local row = call('GETRANGE', KEYS[1], 0, 5)
if #row == 0 then return {0} end
if byte(row, 2) ~= 0 then return {1} end
local found, limit, now = {2, sub(row, 3, 6)}, 3 * tonumber(ARGV[3]) + 5, tonumber(ARGV[4])
for _, field in ipairs(fields(KEYS[2])) do
  local after = tonumber(ARGV[2])
  if byte(field, 1) == 102 then after = tonumber(ARGV[1]) end
  if u48(field, 2) > after then
    local rec = call('HGET', KEYS[2], field)
    if u48(rec, 31) > now and u48(rec, 19) == 0 then
      found[#found + 1] = field
      found[#found + 1] = rec
      found[#found + 1] = call('HGET', KEYS[2], data_of(field, rec))
      if #found >= limit then break end
    end
  end
end
return found
