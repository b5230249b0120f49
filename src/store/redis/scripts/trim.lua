-- Drop from a tenant's log what is too old, or too much: KEYS log, moved. ARGV: 1 what was written before this is too old (6 bytes), 2 rows
-- at most, 3 entries to look at. Each row begins with when it was written; the last one stays. An entry goes with its last row: until
-- then the position of the first row that is kept tells where the log begins. Answers how many rows went.
local old, most = u48(ARGV[1], 1), tonumber(ARGV[2])
local known = call('HMGET', KEYS[2], 'rows', 'first')
local left, first = tonumber(known[1] or '0'), tonumber(known[2] or '0')
local dropped, done = 0, false
for _, entry in ipairs(call('XRANGE', KEYS[1], '-', '+', 'COUNT', ARGV[3])) do
  local rows, at, count = entry[2][2], 1, 0
  while at <= #rows do
    local _, size = measure(rows, at)
    at, count = at + size, count + 1
  end
  local position = tonumber(string.match(entry[1], '^%d+')) - count
  at = 1
  while at <= #rows do
    position = position + 1
    local head, size = measure(rows, at)
    if position >= first then
      if left <= 1 or (u48(rows, at + head) >= old and left <= most) then
        done = true
        break
      end
      left, first, dropped = left - 1, position + 1, dropped + 1
    end
    at = at + size
  end
  if done then break end
end
if dropped > 0 then
  local from = string.format('%.0f', first)
  call('XTRIM', KEYS[1], 'MINID', '=', from .. '-0')
  call('HSET', KEYS[2], 'rows', string.format('%.0f', left), 'first', from)
end
return dropped
