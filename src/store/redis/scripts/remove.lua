-- Remove a device: KEYS device, seat, queue, states, outbox, counters, due, again, tokens, reported, ids, outbox of the feed.
-- ARGV: 1 row as it was read, 2 tombstone, 3 ending, 4 now, 5 prefix of receipts, 6 member, 7 id, 8 cohort field ('': push),
-- 9 when the tombstone goes, 10 what a row of the feed begins with.
if (call('GET', KEYS[1]) or '') ~= ARGV[1] then return {0} end
local p = call('GET', KEYS[2]) or EMPTY
local q, s = KEYS[3], KEYS[4]
local found = fields(q)
for _, field in ipairs(found) do tell(s, KEYS[5], field, call('HGET', q, field), ARGV[3], ARGV[5]) end
call('DEL', q, KEYS[9], KEYS[10])
call('ZREM', KEYS[8], ARGV[6])
-- A device of the same id is another one: it shares no idempotency keys with this one.
for _, field in ipairs(call('HKEYS', s)) do
  if byte(field, 1) == 105 then call('HDEL', s, field) end
end
call('SET', KEYS[1], ARGV[2])
if #p > 62 then
  call('RPUSH', KEYS[12], ARGV[10] .. sub(p, 32, 37) .. sub(p, 62, 63) .. sub(p, 68, 68) .. ARGV[6])
end
call('ZREM', KEYS[11], ARGV[7])
local before = sub(p, 32, 37) .. sub(p, 62)
p = look_by(KEYS[7], ARGV[6], sub(p, 1, 49) .. '\0\0' .. sub(p, 52, 57) .. '\0\0\0\0', tonumber(ARGV[9]))
call('SET', KEYS[2], p)
call('HINCRBY', KEYS[6], 'd', '-1')
if ARGV[8] ~= '' then call('HINCRBY', KEYS[6], ARGV[8], '-1') end
return {1, before}
