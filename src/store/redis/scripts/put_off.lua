-- Put off: an event waits again. KEYS seat, queue, states, outbox, again, events that wait.
-- ARGV: 1 field, 2 field where it was born, 3 ending, 4 ending after too many attempts, 5 attempts at most, 6 due again, 7 at the next
-- session, 8 now, 9 keys are kept for, 10 prefix of the receipt, 11 member.
local q, s = KEYS[2], KEYS[3]
local field, rec = find(q, s, ARGV[1])
if not rec and ARGV[2] ~= ARGV[1] then field, rec = find(q, s, ARGV[2]) end
if not rec then
  local row = call('HGET', s, ARGV[2])
  if not row then return '\0' end
  local hlen = unpack('>I2', row, 3)
  local told = sub(ARGV[3], 16)
  local flags = byte(row, hlen + 3)
  if told ~= '' and math.floor(flags / 8) % 2 == 0 then
    call('HSET', s, ARGV[2], sub(row, 1, hlen + 2) .. char(flags + 8) .. sub(row, hlen + 4) .. told)
  end
  return '\4' .. sub(row, hlen + 1, hlen + 1)
end
if unpack('>I2', rec, 11) >= tonumber(ARGV[5]) then
  local born = tell(s, KEYS[4], field, rec, ARGV[4], ARGV[10])
  local events, bytes = counts(q)
  take(q, field, rec, events, bytes)
  free(s, rec, born, tonumber(ARGV[8]), tonumber(ARGV[9]))
  return '\1' .. sub(rec, 25, 36) .. char(byte(rec, 2) % 4) .. '\1'
end
if u48(rec, 19) ~= 0 then
  if unpack('>I2', rec, 11) == 0 then return '\4\1' end
  return '\4\2'
end
local flags = byte(rec, 2)
local later = ARGV[7] == '1'
if later then flags = flags + 16 end
-- The ending names where it waits.
tell(s, KEYS[4], field, rec, sub(ARGV[3], 1, 15) .. sub(field, 2) .. sub(ARGV[3], 16), ARGV[10])
-- Leaving the outbox will count it as one that leaves the queue.
call('INCR', KEYS[6])
call('HSET', q, field, sub(rec, 1, 1) .. char(flags) .. sub(rec, 3, 18) .. p48(tonumber(ARGV[6])) .. sub(rec, 25))
call('ZADD', KEYS[5], 'LT', ARGV[6], ARGV[11])
if later then
  local p = call('GET', KEYS[1]) or EMPTY
  call('SET', KEYS[1], sub(p, 1, 49) .. pack('>I2', math.min(unpack('>I2', p, 50) + 1, 65535)) .. sub(p, 52))
end
return '\2'
