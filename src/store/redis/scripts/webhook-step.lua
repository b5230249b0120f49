-- A step of the sending: KEYS state, waiting, dead letters. ARGV: 1 fence, 2 lease lasts (ms), 3 progress, 4 dead letters at most, 5 how many
-- wait no more, 6 how many wait, 7 how many were given up; then positions, and twice pairs of a position and a row. Answers whether dead
-- letters were put back, and how many were dropped; the first is -1 when another has the lease.
local known = call('HMGET', KEYS[1], 'fence', 'redriven')
if known[1] ~= ARGV[1] then return {-1, 0} end
local at = 8
local function put(key, count)
  for _ = 1, count do
    call('ZREMRANGEBYSCORE', key, ARGV[at], ARGV[at])
    call('ZADD', key, ARGV[at], ARGV[at + 1])
    at = at + 2
  end
end
for _ = 1, tonumber(ARGV[5]) do
  call('ZREMRANGEBYSCORE', KEYS[2], ARGV[at], ARGV[at])
  at = at + 1
end
put(KEYS[2], tonumber(ARGV[6]))
put(KEYS[3], tonumber(ARGV[7]))
local dropped = 0
if ARGV[7] ~= '0' then
  dropped = math.max(0, call('ZCARD', KEYS[3]) - tonumber(ARGV[4]))
  if dropped > 0 then call('ZREMRANGEBYRANK', KEYS[3], 0, dropped - 1) end
end
local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
call('HSET', KEYS[1], 'until', string.format('%.0f', now + tonumber(ARGV[2])), 'progress', ARGV[3])
return {tonumber(known[2] or '0'), dropped}
