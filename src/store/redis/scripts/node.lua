-- Join, beat or leave: KEYS nodes, incarnations, version, losses. ARGV: 1 join, beat or leave, 2 number of the node ('': any), 3 incarnation
-- (4 bytes), 4 lives for (ms), 5 what it says of itself, 6 a number is given to another after (ms),
-- 7 whether a node that leaves has seats still.
-- A node's row: expires at 6, incarnation 4, what it says of itself. Answers the time, its number and incarnation, the version of the
-- registry, all rows, and all losses (losses.lua).
local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local number, incarnation = ARGV[2], ARGV[3]
local function life(number, incarnation) return string.format('%s:%.0f', number, (unpack('>I4', incarnation))) end
if ARGV[1] == 'join' then
  local taken, rows = {}, call('HGETALL', KEYS[1])
  for index = 1, #rows, 2 do
    if u48(rows[index + 1], 1) + tonumber(ARGV[6]) > now then taken[rows[index]] = true end
  end
  local lowest = 1
  while taken[tostring(lowest)] do lowest = lowest + 1 end
  number = tostring(lowest)
  local before = call('HGET', KEYS[1], number)
  if before then
    -- Whoever had the name left without a goodbye.
    before = life(number, sub(before, 7, 10))
    if call('HGET', KEYS[4], before) == 'done' then call('HDEL', KEYS[4], before) else call('HSETNX', KEYS[4], before, '0') end
  end
  incarnation = pack('>I4', call('HINCRBY', KEYS[2], number, 1))
  call('HSET', KEYS[1], number, p48(now + tonumber(ARGV[4])) .. incarnation .. ARGV[5])
else
  local row = call('HGET', KEYS[1], number)
  -- Its answer of the last time was lost, and with it that it goes on as another life.
  if ARGV[1] == 'beat' and row and #ARGV[5] > 1 and sub(row, 11) == ARGV[5] then incarnation = sub(row, 7, 10) end
  if not row or sub(row, 7, 10) == incarnation then
    if ARGV[1] == 'beat' then
      if call('HEXISTS', KEYS[4], life(number, incarnation)) == 1 then
        -- It was counted as lost, and its seats are being ended: it goes on as another life of its name.
        if call('HGET', KEYS[4], life(number, incarnation)) == 'done' then call('HDEL', KEYS[4], life(number, incarnation)) end
        incarnation = pack('>I4', call('HINCRBY', KEYS[2], number, 1))
      end
      -- A row that a failover lost is put back.
      call('HSET', KEYS[1], number, p48(now + tonumber(ARGV[4])) .. incarnation .. ARGV[5])
      local given = tonumber(call('HGET', KEYS[2], number) or '0')
      if given < unpack('>I4', incarnation) then
        call('HSET', KEYS[2], number, string.format('%.0f', (unpack('>I4', incarnation))))
      end
    else
      call('HDEL', KEYS[1], number)
      if ARGV[7] == '1' then call('HSETNX', KEYS[4], life(number, incarnation), '0') end
    end
  elseif ARGV[1] == 'beat' then
    number = ''
  end
end
return {tostring(now), number, incarnation, call('GET', KEYS[3]) or '0', call('HGETALL', KEYS[1]), call('HGETALL', KEYS[4])}
