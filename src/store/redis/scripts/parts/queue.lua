
-- Counts of a queue: events 4, bytes 6.
local function counts(q)
  local row = call('HGET', q, '_')
  if not row then return 0, 0 end
  local events, bytes = unpack('>I4I6', row)
  return events, bytes
end

-- The field of an event's data: what it was born as, whatever place it waits at.
local function data_of(field, rec) return char(byte(field) - 32) .. sub(rec, 13, 18) end

-- Takes an event out of its queue, with its data and the collapse key that names it. Answers the bytes that are left.
local function take(q, field, rec, events, bytes)
  if events <= 1 then
    call('DEL', q)
    return 0
  end
  local at = 37
  if byte(rec, 2) >= 64 then at = 53 end
  local clen = byte(rec, at)
  if clen > 0 then
    local key = 'c' .. sub(rec, at + 1, at + clen)
    if call('HGET', q, key) == field then call('HDEL', q, key) end
  end
  local data = data_of(field, rec)
  bytes = bytes - call('HSTRLEN', q, data)
  call('HDEL', q, field, data)
  call('HSET', q, '_', pack('>I4I6', events - 1, bytes))
  return bytes
end
