-- Settle: KEYS seat, queue, states, outbox, counters, again.
-- ARGV: 1 field, 2 field where it was born, 3 outcome (d delivered, p processed, a again, x any other), 4 ending, 5 ending after too
-- many attempts, 6 attempts at most, 7 due again, 8 at the next session, 9 now, 10 keys are kept for, 11 prefix of the receipt,
-- 12 member.
local q, s = KEYS[2], KEYS[3]
local field, rec = find(q, s, ARGV[1])
if not rec and ARGV[2] ~= ARGV[1] then field, rec = find(q, s, ARGV[2]) end

if not rec then
  local row = call('HGET', s, ARGV[2])
  if not row then return {0} end
  local hlen = struct.unpack('>I2', row, 3)
  local state, flags = byte(row, hlen + 1), byte(row, hlen + 3)
  local changed, receipt = false, false
  local head, ending = sub(row, 1, hlen), sub(row, hlen + 1)
  -- Late: delivered or processed after replaced, cancelled or expired.
  if (ARGV[3] == 'd' or ARGV[3] == 'p') and (state == 6 or state == 7 or state == 8) and flags % 2 == 0 then
    flags, changed = flags + 1, true
  end
  local told = sub(ARGV[4], 16)
  if told ~= '' and math.floor(flags / 8) % 2 == 0 then
    if ARGV[3] == 'p' and state == 4 then
      -- The one move after the queue's duty.
      ending = char(5) .. sub(ending, 2, 3) .. sub(ARGV[4], 4, 15) .. sub(ending, 16)
      if math.floor(flags / 2) % 2 == 0 and math.floor(byte(ARGV[4], 3) / 2) % 2 == 1 then flags = flags + 2 end
      receipt = true
    end
    flags = flags + 8
    ending = ending .. told
    changed = true
  elseif ARGV[3] == 'p' and state == 4 and math.floor(flags / 8) % 2 == 0 then
    ending = char(5) .. sub(ending, 2, 3) .. sub(ARGV[4], 4, 15) .. sub(ending, 16)
    if math.floor(flags / 2) % 2 == 0 and math.floor(byte(ARGV[4], 3) / 2) % 2 == 1 then flags = flags + 2 end
    changed, receipt = true, true
  end
  if changed then
    ending = sub(ending, 1, 2) .. char(flags) .. sub(ending, 4)
    call('HSET', s, ARGV[2], head .. ending)
    if receipt then call('RPUSH', KEYS[4], ARGV[11] .. ARGV[2] .. sub(row, 25, 30) .. ending) end
  end
  return {4, state}
end

local flags = byte(rec, 2)
if ARGV[3] == 'd' and math.floor(flags / 4) % 4 == 2 then return {3} end
local ending, given_up = ARGV[4], 0
if ARGV[3] == 'a' then
  if struct.unpack('>I2', rec, 11) >= tonumber(ARGV[6]) then
    ending, given_up = ARGV[5], 1
  elseif u48(rec, 19) ~= 0 then
    return {4, 2}
  else
    local later = ARGV[8] == '1'
    local hlen = struct.unpack('>I2', rec, 3)
    local head_flags = flags
    if later then head_flags = head_flags + 16 end
    -- The ending names where it waits.
    ending = sub(ending, 1, 15) .. sub(field, 2) .. sub(ending, 16)
    tell(s, KEYS[4], field, rec, ending, ARGV[11])
    call('HSET', q, field, sub(rec, 1, 1) .. char(head_flags) .. sub(rec, 3, 18) .. p48(tonumber(ARGV[7])) .. sub(rec, 25))
    call('ZADD', KEYS[6], 'LT', ARGV[7], ARGV[12])
    if later then
      local p = call('GET', KEYS[1]) or EMPTY
      local waiting = math.min(struct.unpack('>I2', p, 50) + 1, 65535)
      call('SET', KEYS[1], sub(p, 1, 49) .. struct.pack('>I2', waiting) .. sub(p, 52))
    end
    return {2}
  end
end
local born = tell(s, KEYS[4], field, rec, ending, ARGV[11])
local events, bytes = counts(q)
take(q, field, rec, events, bytes)
free(s, rec, born, tonumber(ARGV[9]), tonumber(ARGV[10]))
local queued = call('HINCRBY', KEYS[5], 'q', -1)
return {1, sub(rec, 25, 36), flags % 4, queued, given_up}
