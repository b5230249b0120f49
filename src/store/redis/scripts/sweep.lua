-- Housekeeping of one device, a bounded part of its states at a time:
-- KEYS device, seat, queue, states, outbox, counters, due, ordinals.
-- ARGV: 1 now, 2 keys are kept for, 3 states are kept for, 4 tombstones are kept for, 5 member, 6 tenant (2 bytes), 7 device with
-- its length, 8 cursor of the states ('0' to begin), 9 earliest next look so far ('0': none), 10 due as it was at the beginning
-- ('': begin), 11 states to look at, 12 ending of what expired.
local now, next_look = tonumber(ARGV[1]), tonumber(ARGV[9])
local p = call('GET', KEYS[2])
local q, s = KEYS[3], KEYS[4]
local row = call('GETRANGE', KEYS[1], 0, 21)
local expired, dropped = 0, 0
local function again_at(at)
  if next_look == 0 or at < next_look then next_look = at end
end
local due = ARGV[10]
local seat = p or EMPTY
if due == '' then
  due = tostring(u48(seat, 44))
  local events, bytes = counts(q)
  for _, field in ipairs(fields(q)) do
    local rec = call('HGET', q, field)
    local expires = u48(rec, 31)
    if expires <= now then
      local born = tell(s, KEYS[5], field, rec, ARGV[12], ARGV[6] .. sub(row, 3, 6) .. ARGV[7])
      bytes = take(q, field, rec, events, bytes)
      free(s, rec, born, now, tonumber(ARGV[2]))
      events = events - 1
      expired = expired + 1
    else
      again_at(expires)
    end
  end
end
local page = call('HSCAN', s, ARGV[8], 'COUNT', ARGV[11])
local rows = page[2]
for index = 1, #rows, 2 do
  local field, value = rows[index], rows[index + 1]
  if byte(field, 1) == 105 then
    local over = u48(value, 24) + tonumber(ARGV[2])
    if now < over then again_at(over)
    elseif not find(q, s, sub(value, 1, 7)) then
      call('HDEL', s, field)
      dropped = dropped + 1
    end
  else
    local hlen = struct.unpack('>I2', value, 3)
    local over = u48(value, hlen + 4) + tonumber(ARGV[3])
    if now < over then again_at(over)
    elseif not find(q, s, field) then
      call('HDEL', s, field)
      dropped = dropped + 1
    end
  end
end
if page[1] ~= '0' then return {page[1], tostring(next_look), due, expired, dropped} end
if #row == 22 and byte(row, 2) ~= 0 then
  local over = u48(row, 17) + tonumber(ARGV[4])
  if now < over then again_at(over)
  else
    call('DEL', KEYS[1], KEYS[2])
    call('HDEL', KEYS[8], sub(row, 3, 6))
    dropped = dropped + 1
    p = false
  end
end
if p then
  -- What was stored meanwhile may be due earlier.
  local meanwhile = u48(seat, 44)
  if meanwhile ~= tonumber(due) and meanwhile ~= 0 then again_at(meanwhile) end
  call('SET', KEYS[2], sub(p, 1, 43) .. p48(next_look) .. sub(p, 50))
end
if next_look == 0 or not p then call('ZREM', KEYS[7], ARGV[5]) else call('ZADD', KEYS[7], next_look, ARGV[5]) end
return {'0', tostring(next_look), due, expired, dropped}
