-- Settle: KEYS queue, states, outbox.
-- ARGV: 1 outcome 1 (d delivered, p processed, x any other), field 7, field where it was born 7, now 6, keys are kept for 6, length of the ending 2, ending, prefix of the
-- receipt.
local a = ARGV[1]
local ending_to = 29 + unpack('>I2', a, 28)
local ending = sub(a, 30, ending_to)
local q, s = KEYS[1], KEYS[2]
local kind, field, born = sub(a, 1, 1), sub(a, 2, 8), sub(a, 9, 15)
local found = call('HMGET', q, field, '_')
local rec = found[1]
if not rec then
  field, rec = moved(q, s, field)
  if not rec and born ~= sub(a, 2, 8) then field, rec = find(q, s, born) end
end

if not rec then
  local row = call('HGET', s, born)
  if not row then return '\0' end
  -- What a device says afterwards may be kept: that is a step of its own.
  if kind ~= 'x' or #ending > 15 then return '\6' end
  local hlen = unpack('>I2', row, 3)
  return '\4' .. sub(row, hlen + 1, hlen + 1)
end

local flags = byte(rec, 2)
if kind == 'd' and math.floor(flags / 4) % 4 == 2 then return '\3' end
born = tell(s, KEYS[3], field, rec, ending, sub(a, ending_to + 1))
local events, bytes = unpack('>I4I6', found[2])
take(q, field, rec, events, bytes)
if flags >= 64 then
  local now, kept_ms = unpack('>I6I6', a, 16)
  free(s, rec, born, now, kept_ms)
end
return '\1' .. sub(rec, 25, 36) .. char(flags % 4) .. '\0'
