-- Give a key another secret: KEYS keys, version. ARGV: 1 hash of the newest secret and 2 its row as it was read, 3 its row as it is to be ('': it
-- ends), 4 hash of the new one and 5 its row, then hashes that end. Answers 0 when the row is another one.
if (call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
for index = 6, #ARGV do call('HDEL', KEYS[1], ARGV[index]) end
if ARGV[3] ~= '' then call('HSET', KEYS[1], ARGV[1], ARGV[3]) end
call('HSET', KEYS[1], ARGV[4], ARGV[5])
call('INCR', KEYS[2])
return 1
