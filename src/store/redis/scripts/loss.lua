-- Say how far the seats of a lost node are ended: KEYS nodes, losses, who does it. ARGV: 1 who says so, 2 the loss, 3 number,
-- 4 incarnation (4 bytes), 5 how many buckets are done, or 'done'.
if call('GET', KEYS[3]) ~= ARGV[1] or call('HEXISTS', KEYS[2], ARGV[2]) == 0 then return 0 end
local row = call('HGET', KEYS[1], ARGV[3])
if ARGV[5] == 'done' and (not row or sub(row, 7, 10) ~= ARGV[4]) then
  -- Nobody can come back under that life.
  call('HDEL', KEYS[2], ARGV[2])
else
  call('HSET', KEYS[2], ARGV[2], ARGV[5])
end
return 1
