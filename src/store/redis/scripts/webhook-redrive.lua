-- Put dead letters back among what waits: KEYS state, waiting, dead letters. ARGV: 1 how many may wait, then pairs of a position and the
-- row that waits. Answers how many were put back.
local room, put = tonumber(ARGV[1]) - call('ZCARD', KEYS[2]), 0
for at = 2, #ARGV, 2 do
  if put < room and call('ZREMRANGEBYSCORE', KEYS[3], ARGV[at], ARGV[at]) > 0 then
    call('ZADD', KEYS[2], ARGV[at], ARGV[at + 1])
    put = put + 1
  end
end
if put > 0 then call('HSET', KEYS[1], 'redriven', '1') end
return put
