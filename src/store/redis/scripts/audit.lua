-- Write into the audit log of a tenant: KEYS log. ARGV: 1 the least position, 2 an entry, 3 the one whose place it takes ('': a new one). No
-- two entries are alike, so one that is there was written by an earlier try. Answers the position.
local at = call('ZSCORE', KEYS[1], ARGV[2])
if at then return at end
if ARGV[3] ~= '' then
  at = call('ZSCORE', KEYS[1], ARGV[3])
  call('ZREM', KEYS[1], ARGV[3])
end
if not at then
  at = tonumber(ARGV[1])
  local last = call('ZRANGE', KEYS[1], '-1', '-1', 'WITHSCORES')
  if last[2] and tonumber(last[2]) >= at then at = tonumber(last[2]) + 1 end
  at = string.format('%.0f', at)
end
call('ZADD', KEYS[1], at, ARGV[2])
return at
