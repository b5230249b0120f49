-- The keys are in the rest of the record.
local collapsed_at = 13
accepted = sub(rest, 1, 6)
if byte(a, 4) >= 64 then
  idempotent, collapsed_at = 'i' .. sub(rest, 13, 28), 29
  local kept = call('HGET', s, idempotent)
  if kept then
    local field = sub(kept, 1, 7)
    local state = nil
    local _, waits = find(q, s, field)
    if waits then
      state = '\2'
      if sub(waits, 11, 12) == '\0\0' then state = '\1' end
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
      if sub(kept, 8, 23) ~= sub(a, 43, 58) then return '\2' .. ordinal .. field end
      return '\3' .. ordinal .. field .. state .. sub(p, 32, 37) .. sub(p, 62)
    end
  end
end
local clen = byte(rest, collapsed_at)
if clen > 0 then
  collapse = 'c' .. sub(rest, collapsed_at + 1, collapsed_at + clen)
  old = call('HGET', q, collapse)
  if old then old_rec = call('HGET', q, old) end
  if old_rec then less, freed = 1, call('HSTRLEN', q, data_of(old, old_rec)) end
end
