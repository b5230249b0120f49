
-- An ending as a receipt has it: with any attempt but the first, and with the place of the group that a copy is of.
local function received(rec, ending)
  local flags, more = byte(ending, 3), ''
  local attempt = sub(rec, 11, 12)
  if attempt ~= '\0\1' then flags, more = flags + 32, attempt end
  if byte(rec, 2) >= 128 then flags, more = flags + 64, more .. sub(rec, 37, 46) end
  if more == '' then return ending end
  return sub(ending, 1, 2) .. char(flags) .. sub(ending, 4, 15) .. more .. sub(ending, 16)
end

-- Writes how an event ended (or that it waits again), and the receipt of it.
local function tell(s, o, field, rec, ending, prefix)
  local born = sub(field, 1, 1) .. sub(rec, 13, 18)
  call('HSET', s, born, rec .. ending)
  call('RPUSH', o, prefix .. born .. sub(rec, 25, 30) .. received(rec, ending))
  return born
end

-- Gives an idempotency key free whose time is over.
local function free(s, rec, born, now, kept_ms)
  local flags, accepted = byte(rec, 2), 25
  if flags < 64 then return end
  -- Of an event with a `deliver_at` that time is there, and the other is the last of the head.
  if math.floor(flags / 32) % 2 == 1 then accepted = #rec - 5 end
  if now < u48(rec, accepted) + kept_ms then return end
  local key = 'i' .. sub(rec, 37, 52)
  local kept = call('HGET', s, key)
  if kept and sub(kept, 1, 7) == born then call('HDEL', s, key) end
end
