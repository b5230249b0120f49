-- Look at an outbox: KEYS outbox, counters. ARGV: 1 rows at most, 2 floor of positions.
-- Writes, so that the wait for replicas covers all that is seen.
local base = tonumber(call('HGET', KEYS[2], 't') or '0')
local floor = tonumber(ARGV[2])
if base < floor then base = floor end
call('HSET', KEYS[2], 't', base)
return {base, call('LRANGE', KEYS[1], 0, tonumber(ARGV[1]) - 1)}
