
-- Writes how an event ended (or that it waits again), and the receipt of it, which names any attempt but the first.
local function tell(s, o, field, rec, ending, prefix)
  local born = sub(field, 1, 1) .. sub(rec, 13, 18)
  call('HSET', s, born, rec .. ending)
  local attempt = sub(rec, 11, 12)
  if attempt ~= '\0\1' then ending = sub(ending, 1, 2) .. char(byte(ending, 3) + 32) .. sub(ending, 4, 15) .. attempt .. sub(ending, 16) end
  call('RPUSH', o, prefix .. born .. sub(rec, 25, 30) .. ending)
  return born
end

-- Gives an idempotency key free whose time is over.
local function free(s, rec, born, now, kept_ms)
  if byte(rec, 2) < 64 or now < u48(rec, 25) + kept_ms then return end
  local key = 'i' .. sub(rec, 37, 52)
  local kept = call('HGET', s, key)
  if kept and sub(kept, 1, 7) == born then call('HDEL', s, key) end
end
