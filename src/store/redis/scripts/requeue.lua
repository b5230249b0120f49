-- Requeue what is due of one device: KEYS device, seat, queue, states, again. ARGV: 1 now, 2 floor, 3 member, 4 limit.
local p = call('GET', KEYS[2]) or EMPTY
local q, s = KEYS[3], KEYS[4]
local now, floor, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4])
local due, next_due = {}, nil
for _, field in ipairs(fields(q)) do
  local rec = call('HGET', q, field)
  local at = u48(rec, 19)
  if at ~= 0 then
    if at <= now then due[#due + 1] = {at, field, rec}
    elseif not next_due or at < next_due then next_due = at end
  end
end
table.sort(due, function(a, b) return a[1] < b[1] or (a[1] == b[1] and rank(a[2]) < rank(b[2])) end)
local row = call('GETRANGE', KEYS[1], 2, 5)
local moved = {row, sub(p, 32, 37) .. sub(p, 62)}
for index, one in ipairs(due) do
  if index > limit then
    next_due = math.min(next_due or one[1], one[1])
    break
  end
  local field, rec = one[2], one[3]
  local letter = sub(field, 1, 1)
  local flags = byte(rec, 2)
  local lane = 8 + 6 * (flags % 4)
  local number = p48(math.max(u48(p, 2) + 1, floor))
  local seq = p48(math.max(u48(p, lane) + 1, floor))
  p = '\1' .. number .. sub(p, 8, lane - 1) .. seq .. sub(p, lane + 6)
  if math.floor(flags / 16) % 2 == 1 then
    flags = flags - 16
    local later = struct.unpack('>I2', p, 50)
    if later > 0 then p = sub(p, 1, 49) .. struct.pack('>I2', later - 1) .. sub(p, 52) end
  end
  local attempt = math.min(struct.unpack('>I2', rec, 11) + 1, 65535)
  local born = letter .. sub(rec, 13, 18)
  local again = sub(rec, 1, 1) .. char(flags) .. sub(rec, 3, 4) .. seq .. struct.pack('>I2', attempt) .. sub(rec, 13, 18)
    .. '\0\0\0\0\0\0' .. sub(rec, 25)
  local at = 37
  if flags >= 64 then at = 53 end
  local clen = byte(rec, at)
  if clen > 0 then
    local key = 'c' .. sub(rec, at + 1, at + clen)
    if call('HGET', q, key) == field then call('HSET', q, key, letter .. number) end
  end
  call('HDEL', q, field)
  call('HSET', q, letter .. number, again)
  local ended = call('HGET', s, born)
  if ended then
    local to = struct.unpack('>I2', ended, 3) + 16
    call('HSET', s, born, sub(ended, 1, to - 1) .. number .. sub(ended, to + 6))
  else
    -- It was scheduled: nothing was said of it until now. It is queued, and waits there.
    call('HSET', s, born, again .. '\2\0\16' .. p48(now) .. '\0\0\0\0\0\0' .. number)
  end
  moved[#moved + 1] = letter .. number
  moved[#moved + 1] = again
  moved[#moved + 1] = call('HGET', q, data_of(field, rec))
end
if #due > 0 then call('SET', KEYS[2], p) end
if next_due then call('ZADD', KEYS[5], next_due, ARGV[3]) else call('ZREM', KEYS[5], ARGV[3]) end
return moved
