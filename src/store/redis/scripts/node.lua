-- Join, beat or leave: KEYS nodes, incarnations, version. ARGV: 1 join, beat or leave, 2 number of the node ('': any), 3 incarnation
-- (4 bytes), 4 lives for (ms), 5 what it says of itself, 6 a number is given to another after (ms).
-- A node's row: expires at 6, incarnation 4, what it says of itself. Answers the time, its number and incarnation, the version of the
-- registry, and all rows.
local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local number, incarnation = ARGV[2], ARGV[3]
if ARGV[1] == 'join' then
  local taken, rows = {}, call('HGETALL', KEYS[1])
  for index = 1, #rows, 2 do
    if u48(rows[index + 1], 1) + tonumber(ARGV[6]) > now then taken[rows[index]] = true end
  end
  local lowest = 1
  while taken[tostring(lowest)] do lowest = lowest + 1 end
  number = tostring(lowest)
  incarnation = struct.pack('>I4', call('HINCRBY', KEYS[2], number, 1))
  call('HSET', KEYS[1], number, p48(now + tonumber(ARGV[4])) .. incarnation .. ARGV[5])
else
  local row = call('HGET', KEYS[1], number)
  if not row or sub(row, 7, 10) == incarnation then
    if ARGV[1] == 'beat' then
      -- A row that a failover lost is put back.
      call('HSET', KEYS[1], number, p48(now + tonumber(ARGV[4])) .. incarnation .. ARGV[5])
      local given = tonumber(call('HGET', KEYS[2], number) or '0')
      if given < struct.unpack('>I4', incarnation) then
        call('HSET', KEYS[2], number, string.format('%.0f', (struct.unpack('>I4', incarnation))))
      end
    else
      call('HDEL', KEYS[1], number)
    end
  elseif ARGV[1] == 'beat' then
    number = ''
  end
end
return {tostring(now), number, incarnation, call('GET', KEYS[3]) or '0', call('HGETALL', KEYS[1])}
