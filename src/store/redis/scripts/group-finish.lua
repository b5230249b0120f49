-- Finishes a group: KEYS record, groups, outbox, events that wait.
-- ARGV: 1 record, 2 member, 3 score from which on groups are finished, 4 its score then; then the receipts of copies that failed.
local score = call('ZSCORE', KEYS[2], ARGV[2])
if not score or tonumber(score) >= tonumber(ARGV[3]) then return 0 end
call('SET', KEYS[1], ARGV[1], 'KEEPTTL', 'XX')
call('ZADD', KEYS[2], ARGV[4], ARGV[2])
for index = 5, #ARGV do
  -- Leaving the outbox will count it as one that leaves the queue.
  call('INCR', KEYS[4])
  call('RPUSH', KEYS[3], ARGV[index])
end
return 1
