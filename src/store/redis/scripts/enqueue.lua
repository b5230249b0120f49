-- Enqueue: KEYS device, seat, queue, counters, due; with an idempotency key or a collapse key also states, outbox.
-- ARGV: 1 queue letter 1, place of the lane in the seat record 1, head of the record 4, now 6, floor 6, keys are kept for 6, bytes of data 4,
-- events at most 4, bytes at most 6, tenant 2, length of the device's id 1, length of its name in the due set 1, hash of the body 16 (when
-- there is an idempotency key); 2 rest of the record.
local a, rest = ARGV[1], ARGV[2]
local p = call('GET', KEYS[2]) or EMPTY
local ordinal = sub(p, 58, 61)
if ordinal == '\0\0\0\0' then
  local row = call('GETRANGE', KEYS[1], '0', '5')
  if #row == 0 then return '\0' end
  if byte(row, 2) ~= 0 then return '\1' end
  ordinal = sub(row, 3, 6)
  p = sub(p, 1, 57) .. ordinal .. sub(p, 62)
end
local q, s = KEYS[3], KEYS[6]
local now, floor, kept_ms, size, events_max, bytes_max = unpack('>I6I6I6I4I4I6', a, 7)
local accepted, expires = unpack('>I6I6', rest)
local idempotent, collapsed_at = nil, 13
if byte(a, 4) >= 64 then
  idempotent, collapsed_at = 'i' .. sub(rest, 13, 28), 29
  local kept = call('HGET', s, idempotent)
  if kept then
    local field = sub(kept, 1, 7)
    local state = nil
    if find(q, s, field) then
      state = '\2'
    else
      local ended = call('HGET', s, field)
      if ended and now < u48(kept, 24) + kept_ms then
        local hlen = unpack('>I2', ended, 3)
        state = sub(ended, hlen + 1, hlen + 1)
      end
    end
    if state then
      -- Written again, so that the wait for replicas covers the first time.
      call('HSET', s, idempotent, kept)
      if sub(kept, 8, 23) ~= sub(a, 43) then return '\2' .. ordinal .. field end
      return '\3' .. ordinal .. field .. state .. sub(p, 32, 37) .. sub(p, 62)
    end
  end
end

local collapse = nil
local clen = byte(rest, collapsed_at)
if clen > 0 then collapse = 'c' .. sub(rest, collapsed_at + 1, collapsed_at + clen) end
local events, bytes = counts(q)
local old, old_rec = nil, nil
if collapse then
  old = call('HGET', q, collapse)
  if old then old_rec = call('HGET', q, old) end
end
local less, freed = 0, 0
if old_rec then less, freed = 1, #old_rec - unpack('>I2', old_rec, 3) end
if events - less >= events_max or bytes - freed + size > bytes_max then return '\4' .. pack('>I4I6', events, bytes) end

local lane = byte(a, 2)
local number = p48(math.max(u48(p, 2) + 1, floor))
local seq = p48(math.max(u48(p, lane) + 1, floor))
local field = sub(a, 1, 1) .. number
p = '\1' .. number .. sub(p, 8, lane - 1) .. seq .. sub(p, lane + 6)

local replaced = '\0\0\0\0\0\0\0\0'
if old_rec then
  local device = sub(KEYS[1], -byte(a, 41))
  local ended, ending = '\1', '\7\0\4' .. sub(rest, 1, 6) .. '\0\0\0\0\0\0' .. field
  if u48(old_rec, 31) <= accepted then
    ended, ending = '\2', '\6\0\0' .. sub(rest, 1, 6) .. '\0\0\0\0\0\0'
  end
  local born = tell(s, KEYS[7], old, old_rec, ending, sub(a, 39, 40) .. ordinal .. sub(a, 41, 41) .. device)
  take(q, old, old_rec, events, bytes)
  free(s, old_rec, born, now, kept_ms)
  events, bytes = events - 1, bytes - freed
  replaced = ended .. born
end

local record = sub(a, 3, 6) .. seq .. '\0\1' .. number .. '\0\0\0\0\0\0' .. rest
local sums = pack('>I4I6', events + 1, bytes + size)
if collapse then
  call('HSET', q, field, record, '_', sums, collapse, field)
else
  call('HSET', q, field, record, '_', sums)
end
local due = expires
if idempotent then
  call('HSET', s, idempotent, field .. sub(a, 43) .. sub(rest, 1, 6))
  due = math.min(due, accepted + kept_ms)
end
local before = u48(p, 44)
if before == 0 or before > due then p = look_by(KEYS[5], sub(KEYS[1], -byte(a, 42)), p, due) end
call('SET', KEYS[2], p)
call('HINCRBY', KEYS[4], 'q', '1')
return '\5' .. ordinal .. number .. seq .. replaced .. sub(p, 32, 37) .. sub(p, 62)
