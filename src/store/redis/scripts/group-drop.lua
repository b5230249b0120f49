-- Takes an unfinished group back: KEYS record, idempotency key (or the record again), groups.
-- ARGV: 1 member, 2 score from which on groups are finished, 3 number 8.
local score = call('ZSCORE', KEYS[3], ARGV[1])
if not score or tonumber(score) >= tonumber(ARGV[2]) then return 0 end
local kept = call('GET', KEYS[2])
if kept and sub(kept, 1, 8) == ARGV[3] then call('DEL', KEYS[2]) end
call('DEL', KEYS[1])
call('ZREM', KEYS[3], ARGV[1])
return 1
