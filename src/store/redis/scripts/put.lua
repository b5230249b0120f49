-- Put a device: KEYS device, counters, ordinals, ids.
-- ARGV: 1 row as it was read ('': none), 2 row, 3 id, 4 ordinal (4 bytes; '': it is known), 5 cohort field before, 6 cohort field now.
if (call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
if ARGV[4] ~= '' then
  if call('HSETNX', KEYS[3], ARGV[4], ARGV[3]) == 0 then return 2 end
  call('ZADD', KEYS[4], 0, ARGV[3])
  call('HINCRBY', KEYS[2], 'd', 1)
end
call('SET', KEYS[1], ARGV[2])
if ARGV[5] ~= ARGV[6] then
  if ARGV[5] ~= '' then call('HINCRBY', KEYS[2], ARGV[5], -1) end
  if ARGV[6] ~= '' then call('HINCRBY', KEYS[2], ARGV[6], 1) end
end
return 1
