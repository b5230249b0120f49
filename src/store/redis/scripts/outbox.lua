-- Take from an outbox what was moved, and look at what is next: KEYS outbox, counters.
-- ARGV: 1 rows at most, 2 floor of positions, 3 position before the first that was moved ('': nothing was), 4 rows that were moved. Each is of an
-- event that left its queue: until now it was counted.
-- Writes in any case, so that the wait for replicas covers all that is seen.
local base = tonumber(call('HGET', KEYS[2], 't') or '0')
if ARGV[3] ~= '' and base == tonumber(ARGV[3]) then
  call('LTRIM', KEYS[1], ARGV[4], '-1')
  base = base + tonumber(ARGV[4])
  call('HINCRBY', KEYS[2], 'q', '-' .. ARGV[4])
end
base = math.max(base, tonumber(ARGV[2]))
call('HSET', KEYS[2], 't', string.format('%.0f', base))
return {base, call('LRANGE', KEYS[1], '0', string.format('%.0f', tonumber(ARGV[1]) - 1))}
