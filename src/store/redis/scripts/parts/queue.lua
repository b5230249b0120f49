
-- Counts of a queue: events 4, bytes 6.
local function counts(q)
  local row = call('HGET', q, '_')
  if not row then return 0, 0 end
  local events, bytes = unpack('>I4I6', row)
  return events, bytes
end

-- Takes an event out of its queue, with the collapse key that names it.
local function take(q, field, rec, events, bytes)
  if events <= 1 then
    call('DEL', q)
    return
  end
  local at = 37
  if byte(rec, 2) >= 64 then at = 53 end
  local clen = byte(rec, at)
  if clen > 0 then
    local key = 'c' .. sub(rec, at + 1, at + clen)
    if call('HGET', q, key) == field then call('HDEL', q, key) end
  end
  call('HDEL', q, field)
  call('HSET', q, '_', pack('>I4I6', events - 1, bytes - (#rec - unpack('>I2', rec, 3))))
end
