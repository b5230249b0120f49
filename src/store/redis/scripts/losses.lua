-- Count nodes as lost, and be the one who ends their seats: KEYS nodes, losses, who does it.
-- ARGV: 1 who asks, 2 for how long (ms), then number and incarnation (4 bytes) of nodes that seem to be dead.
-- A loss: number:incarnation, and how many buckets are done, or 'done'. Answers whether it is the one, and all losses.
local does = call('GET', KEYS[3])
if does and does ~= ARGV[1] then return {0, {}} end
call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2])
local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
for index = 3, #ARGV, 2 do
  local row = call('HGET', KEYS[1], ARGV[index])
  if row and sub(row, 7, 10) == ARGV[index + 1] and u48(row, 1) <= now then
    call('HSETNX', KEYS[2], string.format('%s:%.0f', ARGV[index], (unpack('>I4', ARGV[index + 1]))), '0')
  end
end
return {1, call('HGETALL', KEYS[2])}
