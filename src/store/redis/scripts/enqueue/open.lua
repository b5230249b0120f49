-- Enqueue: KEYS seat, queue, events that wait, due; with an idempotency key or a collapse key also states, outbox; last the device,
-- where the seat may not know its ordinal. To be scheduled all of these, and again.
-- ARGV: 1 queue letter 1, place of the lane in the seat record 1, head of the record 4, now 6, floor 6, keys are kept for 6, bytes of data 4,
-- events at most 4, bytes at most 6, tenant 2, length of the device's id 1, length of its name in the due set 1, hash of the body 16 (when
-- there is an idempotency key), rest of the record; 2 data.
--
-- The function is put together from these files in order; one without keys has neither keyed.lua nor replace.lua. One that schedules
-- has place.lua and schedule.lua instead of number.lua and write.lua.
local a = ARGV[1]
local rest = sub(a, byte(a, 4) >= 64 and 59 or 43)
local q, s = KEYS[2], KEYS[5]
local p = call('GET', KEYS[1])
-- Whether no more of the record than its numbers changes.
local numbers_only = p
p = p or EMPTY
local ordinal = sub(p, 58, 61)
if ordinal == '\0\0\0\0' then
  local device = KEYS[7] or not KEYS[6] and KEYS[5]
  if not device then return '\6' end
  local row = call('GETRANGE', device, '0', '5')
  if #row == 0 then return '\0' end
  if byte(row, 2) ~= 0 then return '\1' end
  ordinal = sub(row, 3, 6)
  p, numbers_only = sub(p, 1, 57) .. ordinal .. sub(p, 62), false
end
local now, floor, kept_ms, size, events_max, bytes_max = unpack('>I6I6I6I4I4I6', a, 7)
local events, bytes = 0, 0
local sums = call('HGET', q, '_')
if sums then events, bytes = unpack('>I4I6', sums) end
local due = u48(rest, 7)
-- Of the event that this one replaces: its field, its record, its place among the counts; how it ended and its field where it was born.
local old, old_rec, less, freed, replaced = nil, nil, 0, 0, '\0\0\0\0\0\0\0\0'
-- Its keys, and when it was accepted, for one that has them.
local collapse, idempotent, accepted
