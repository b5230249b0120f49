-- What a device says of an event that ended before: KEYS states, outbox, events that wait.
-- ARGV: 1 outcome (d delivered, p processed, x any other), 2 field where it was born, 3 ending, 4 prefix of the receipt.
local s, kind, ending = KEYS[1], ARGV[1], ARGV[3]
local row = call('HGET', s, ARGV[2])
if not row then return '\0' end
local hlen = unpack('>I2', row, 3)
local state, flags = byte(row, hlen + 1), byte(row, hlen + 3)
-- It waits again meanwhile.
if flags % 32 >= 16 then return '\4\2' end
local changed, receipt = false, false
local known = sub(row, hlen + 1)
local function has(flag) return math.floor(flags / flag) % 2 == 1 end
-- Late: delivered or processed after replaced, cancelled or expired.
if (kind == 'd' or kind == 'p') and (state == 6 or state == 7 or state == 8) and not has(1) then
  flags, changed = flags + 1, true
end
local told = sub(ending, 16)
if not has(8) then
  if kind == 'p' and state == 4 then
    -- The one move after the queue's duty.
    known = char(5) .. sub(known, 2, 3) .. sub(ending, 4, 15) .. sub(known, 16)
    if not has(2) and math.floor(byte(ending, 3) / 2) % 2 == 1 then flags = flags + 2 end
    changed, receipt = true, true
  end
  if told ~= '' then
    flags, known, changed = flags + 8, known .. told, true
  end
end
if changed then
  known = sub(known, 1, 2) .. char(flags) .. sub(known, 4)
  call('HSET', s, ARGV[2], sub(row, 1, hlen) .. known)
  if receipt then
    -- It left the queue before, and leaving the outbox will count it as one that leaves.
    call('INCR', KEYS[3])
    call('RPUSH', KEYS[2], ARGV[4] .. ARGV[2] .. sub(row, 25, 30) .. received(row, known))
  end
end
return '\4' .. char(state)
