-- Take from an outbox what was moved: KEYS outbox, counters. ARGV: 1 position before the first, 2 rows.
if tonumber(call('HGET', KEYS[2], 't') or '0') ~= tonumber(ARGV[1]) then return 0 end
call('LTRIM', KEYS[1], ARGV[2], -1)
call('HINCRBY', KEYS[2], 't', ARGV[2])
return 1
