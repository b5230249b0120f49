-- Take from an outbox what was moved, and look at what is next: KEYS outbox, counters, events that wait (when rows are of
-- events).
-- ARGV: 1 rows at most, 2 floor of positions, 3 position before the first that was moved ('': nothing was), 4 rows that were moved, 5 the
-- counter of positions. Each row of an event is of one that left its queue: until now it was counted.
-- Writes in any case, so that the wait for replicas covers all that is seen.
local base = tonumber(call('HGET', KEYS[2], ARGV[5]) or '0')
if ARGV[3] ~= '' and base == tonumber(ARGV[3]) then
  call('LTRIM', KEYS[1], ARGV[4], '-1')
  base = base + tonumber(ARGV[4])
  if KEYS[3] then call('DECRBY', KEYS[3], ARGV[4]) end
end
base = math.max(base, tonumber(ARGV[2]))
call('HSET', KEYS[2], ARGV[5], string.format('%.0f', base))
return {base, call('LRANGE', KEYS[1], '0', string.format('%.0f', tonumber(ARGV[1]) - 1))}
