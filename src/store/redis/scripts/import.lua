-- Import a device: KEYS device, seat, queue, states, tokens, reported, ordinals, ids, counters, due, again, events that
-- wait.
-- ARGV: 1 row, 2 seat record, 3 tokens ('': none), 4 what it reported ('': nothing), 5 ordinal (4 bytes), 6 id, 7 whether it is there
-- (0: it was removed), 8 cohort field, 9 member, 10 housekeeping looks at, 11 again at (0: never), 12 events that wait, 13 fields and
-- values of the queue together; then these, and then those of the states.
local row = call('GETRANGE', KEYS[1], 0, 5)
if #row > 0 then
  if sub(row, 3, 6) == ARGV[5] then return 1 end
  return 2
end
call('SET', KEYS[1], ARGV[1])
call('SET', KEYS[2], ARGV[2])
call('HSET', KEYS[7], ARGV[5], ARGV[6])
call('ZADD', KEYS[10], ARGV[10], ARGV[9])
local states = 14 + tonumber(ARGV[13])
for index = 14, states - 1, 2 do call('HSET', KEYS[3], ARGV[index], ARGV[index + 1]) end
for index = states, #ARGV, 2 do call('HSET', KEYS[4], ARGV[index], ARGV[index + 1]) end
if ARGV[7] == '0' then return 0 end
if ARGV[3] ~= '' then call('SET', KEYS[5], ARGV[3]) end
if ARGV[4] ~= '' then call('SET', KEYS[6], ARGV[4]) end
call('ZADD', KEYS[8], 0, ARGV[6])
call('HINCRBY', KEYS[9], 'd', 1)
if ARGV[8] ~= '' then call('HINCRBY', KEYS[9], ARGV[8], 1) end
if ARGV[12] ~= '0' then call('INCRBY', KEYS[12], ARGV[12]) end
if ARGV[11] ~= '0' then call('ZADD', KEYS[11], ARGV[11], ARGV[9]) end
return 0
