-- Append to a tenant's log: KEYS log, moved. ARGV: 1 bucket, 2 floor of positions, 3 positions in the outbox, 6 each, 4 rows, each with its
-- length. They make one entry, whose id is the position of its last row. What was moved before is left out.
local known = call('HMGET', KEYS[2], ARGV[1], 'last', 'rows')
local before, last = tonumber(known[1] or '0'), math.max(tonumber(known[2] or '0'), tonumber(ARGV[2]))
local count, rows, skipped = #ARGV[3] / 6, ARGV[4], 0
if u48(ARGV[3], 1) <= before then
  local at = 1
  while skipped < count and u48(ARGV[3], 6 * skipped + 1) <= before do
    local _, size = measure(rows, at)
    at = at + size
    skipped = skipped + 1
  end
  rows = sub(rows, at)
end
count = count - skipped
if count == 0 then return 0 end
last = string.format('%.0f', last + count)
call('XADD', KEYS[1], last .. '-0', 'r', rows)
call('HSET', KEYS[2], ARGV[1], string.format('%.0f', u48(ARGV[3], #ARGV[3] - 5)), 'last', last,
  'rows', string.format('%.0f', tonumber(known[3] or '0') + count))
return count
