-- Enqueue: KEYS device, seat, queue, states, outbox, counters, due.
-- ARGV: 1 queue letter, 2 lane 0-3, 3 head of the record (4 bytes), 4 rest of the record, 5 bytes of data, 6 accepted at,
-- 7 expires at, 8 collapse field, 9 idempotency field, 10 hash of the body, 11 keys are kept for, 12 now, 13 events at most,
-- 14 bytes at most, 15 floor, 16 member, 17 tenant (2 bytes), 18 device with its length.
local row = call('GETRANGE', KEYS[1], 0, 5)
if #row == 0 then return {0} end
if byte(row, 2) ~= 0 then return {1} end
local ordinal = sub(row, 3, 6)
local p = call('GET', KEYS[2]) or EMPTY
local q, s = KEYS[3], KEYS[4]
local now, kept_ms = tonumber(ARGV[12]), tonumber(ARGV[11])

if ARGV[9] ~= '' then
  local kept = call('HGET', s, ARGV[9])
  if kept then
    local field = sub(kept, 1, 7)
    local state = nil
    if find(q, s, field) then
      state = 2
    else
      local ended = call('HGET', s, field)
      if ended and now < u48(kept, 24) + kept_ms then state = byte(ended, struct.unpack('>I2', ended, 3) + 1) end
    end
    if state then
      -- Written again, so that the wait for replicas covers the first time.
      call('HSET', s, ARGV[9], kept)
      if sub(kept, 8, 23) ~= ARGV[10] then return {2, ordinal, field} end
      return {3, ordinal, field, state, sub(p, 32, 37) .. sub(p, 58)}
    end
  end
end

local events, bytes = counts(q)
local old, old_rec = nil, nil
if ARGV[8] ~= '' then
  old = call('HGET', q, ARGV[8])
  if old then old_rec = call('HGET', q, old) end
end
local size = tonumber(ARGV[5])
local less, freed = 0, 0
if old_rec then less, freed = 1, #old_rec - struct.unpack('>I2', old_rec, 3) end
if events - less >= tonumber(ARGV[13]) or bytes - freed + size > tonumber(ARGV[14]) then return {4, events, bytes} end

local floor = tonumber(ARGV[15])
local lane = 8 + 6 * tonumber(ARGV[2])
local number = math.max(u48(p, 2) + 1, floor)
local seq = math.max(u48(p, lane) + 1, floor)
local number48 = p48(number)
local field = ARGV[1] .. number48
p = '\1' .. number48 .. sub(p, 8, lane - 1) .. p48(seq) .. sub(p, lane + 6)

local replaced, expired = false, 0
if old_rec then
  local ending
  if u48(old_rec, 31) <= tonumber(ARGV[6]) then
    expired = 1
    ending = '\6\0\0' .. p48(tonumber(ARGV[6])) .. '\0\0\0\0\0\0'
  else
    ending = '\7\0\4' .. p48(tonumber(ARGV[6])) .. '\0\0\0\0\0\0' .. field
  end
  replaced = tell(s, KEYS[5], old, old_rec, ending, ARGV[17] .. ordinal .. ARGV[18])
  take(q, old, old_rec, events, bytes)
  free(s, old_rec, replaced, now, kept_ms)
  events, bytes = events - 1, bytes - freed
end

local record = ARGV[3] .. p48(seq) .. '\0\1' .. number48 .. '\0\0\0\0\0\0' .. ARGV[4]
local due = tonumber(ARGV[7])
if ARGV[8] ~= '' then
  call('HSET', q, field, record, '_', struct.pack('>I4I6', events + 1, bytes + size), ARGV[8], field)
else
  call('HSET', q, field, record, '_', struct.pack('>I4I6', events + 1, bytes + size))
end
if ARGV[9] ~= '' then
  call('HSET', s, ARGV[9], field .. ARGV[10] .. p48(tonumber(ARGV[6])))
  due = math.min(due, tonumber(ARGV[6]) + kept_ms)
end
p = look_by(KEYS[7], ARGV[16], p, due)
call('SET', KEYS[2], p)
local queued = call('HINCRBY', KEYS[6], 'q', 1 - less)
return {5, ordinal, number48, p48(seq), sub(p, 32, 37) .. sub(p, 58), queued, replaced, expired}
