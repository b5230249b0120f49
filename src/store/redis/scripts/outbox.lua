-- Take from an outbox what was moved, and look at what is next: KEYS outbox, counters.
-- ARGV: 1 rows at most, 2 floor of positions, 3 position before the first that was moved ('': nothing was), 4 rows that were moved, 5 the
-- counter of positions, 6 the counter of events that wait ('': rows are of no events). Each row is of an event that left its queue: until
-- now it was counted.
-- Writes in any case, so that the wait for replicas covers all that is seen.
local base = tonumber(call('HGET', KEYS[2], ARGV[5]) or '0')
if ARGV[3] ~= '' and base == tonumber(ARGV[3]) then
  call('LTRIM', KEYS[1], ARGV[4], '-1')
  base = base + tonumber(ARGV[4])
  if ARGV[6] ~= '' then call('HINCRBY', KEYS[2], ARGV[6], '-' .. ARGV[4]) end
end
base = math.max(base, tonumber(ARGV[2]))
call('HSET', KEYS[2], ARGV[5], string.format('%.0f', base))
return {base, call('LRANGE', KEYS[1], '0', string.format('%.0f', tonumber(ARGV[1]) - 1))}
