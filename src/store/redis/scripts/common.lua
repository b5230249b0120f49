-- What every script begins with. Layouts of records are in seat.rs, record.rs and device.rs; positions here count from 1.
local call, sub, byte, char = redis.call, string.sub, string.byte, string.char
local function u48(s, at) return (struct.unpack('>I6', s, at)) end
local function p48(n) return struct.pack('>I6', n) end

-- The seat record: version 1, number 6, seqs 4 x 6, epoch 6, last seen 6, due 6, later 2, now 6; then, while it is held, the seat.
local EMPTY = '\1' .. string.rep('\0', 56)

-- Counts of a queue: events 4, bytes 6.
local function counts(q)
  local row = call('HGET', q, '_')
  if not row then return 0, 0 end
  local events, bytes = struct.unpack('>I4I6', row)
  return events, bytes
end

-- Takes an event out of its queue, with the collapse key that names it.
local function take(q, field, rec, events, bytes)
  if events <= 1 then
    call('DEL', q)
    return
  end
  local hlen = struct.unpack('>I2', rec, 3)
  local at = 37
  if byte(rec, 2) >= 64 then at = 53 end
  local clen = byte(rec, at)
  if clen > 0 then
    local key = 'c' .. sub(rec, at + 1, at + clen)
    if call('HGET', q, key) == field then call('HDEL', q, key) end
  end
  call('HDEL', q, field)
  call('HSET', q, '_', struct.pack('>I4I6', events - 1, bytes - (#rec - hlen)))
end

-- Writes how an event ended (or that it waits again), and the receipt of it.
local function tell(s, o, field, rec, ending, prefix)
  local hlen = struct.unpack('>I2', rec, 3)
  local born = sub(field, 1, 1) .. sub(rec, 13, 18)
  call('HSET', s, born, sub(rec, 1, hlen) .. ending)
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

-- The event that was born there: its field now and its record. Nil: it does not wait.
local function find(q, s, field)
  local rec = call('HGET', q, field)
  if rec then return field, rec end
  local row = call('HGET', s, field)
  if not row then return nil end
  local hlen = struct.unpack('>I2', row, 3)
  if byte(row, hlen + 3) < 16 then return nil end
  local at = hlen + 16
  if byte(row, hlen + 3) % 8 >= 4 then at = at + 7 end
  local moved = sub(field, 1, 1) .. sub(row, at, at + 5)
  rec = call('HGET', q, moved)
  if rec then return moved, rec end
  return nil
end

-- Sees to it that housekeeping looks at the device by then. Answers the seat record.
local function look_by(z, member, p, due)
  local before = u48(p, 44)
  if before ~= 0 and before <= due then return p end
  call('ZADD', z, due, member)
  return sub(p, 1, 43) .. p48(due) .. sub(p, 50)
end

-- The fields of a queue, in the order in which events are written. Compared as numbers: Lua compares texts by the server's locale.
local REST = 281474976710656
local function rank(field)
  local number = u48(field, 2)
  if byte(field, 1) == 114 then number = number + REST end
  return number
end
local function fields(q)
  local ranks = {}
  for _, field in ipairs(call('HKEYS', q)) do
    local kind = byte(field, 1)
    if kind == 102 or kind == 114 then ranks[#ranks + 1] = rank(field) end
  end
  table.sort(ranks)
  for index, number in ipairs(ranks) do
    if number >= REST then ranks[index] = 'r' .. p48(number - REST) else ranks[index] = 'f' .. p48(number) end
  end
  return ranks
end
