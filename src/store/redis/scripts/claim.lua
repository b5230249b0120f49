-- Claim: KEYS device, seat, queue, tokens, again, outbox of the feed.
-- ARGV: 1 credential generation (4 bytes), 2 the seat, 3 floor, 4 claimed at, 5 member, 6 whether tokens change, 7 tokens as they
-- were read, 8 tokens as they are to be ('': none).
local row = call('GETRANGE', KEYS[1], 0, 9)
if #row == 0 then return {0} end
if byte(row, 2) ~= 0 then return {1} end
if sub(row, 7, 10) ~= ARGV[1] then return {2} end
if ARGV[6] == '1' then
  local tokens = call('GET', KEYS[4]) or ''
  if tokens ~= ARGV[7] then return {3, tokens} end
  if ARGV[8] == '' then call('DEL', KEYS[4]) else call('SET', KEYS[4], ARGV[8]) end
end
local p = call('GET', KEYS[2]) or EMPTY
local epoch = math.max(u48(p, 32) + 1, tonumber(ARGV[3]))
local before = sub(p, 32, 37) .. sub(p, 62)
local q = KEYS[3]
if struct.unpack('>I2', p, 50) > 0 then
  -- What waits for a session is due now.
  for _, field in ipairs(fields(q)) do
    local rec = call('HGET', q, field)
    local flags = byte(rec, 2)
    if math.floor(flags / 16) % 2 == 1 and u48(rec, 19) > tonumber(ARGV[4]) then
      call('HSET', q, field, sub(rec, 1, 1) .. char(flags - 16) .. sub(rec, 3, 18) .. p48(tonumber(ARGV[4])) .. sub(rec, 25))
      call('ZADD', KEYS[5], 'LT', ARGV[4], ARGV[5])
    end
  end
  p = sub(p, 1, 49) .. '\0\0' .. sub(p, 52)
end
call('SET', KEYS[2], sub(p, 1, 31) .. p48(epoch) .. sub(p, 38, 61) .. ARGV[2])
local at = sub(ARGV[2], 24, 29)
local connected = at .. '\1\0' .. p48(epoch) .. sub(ARGV[2], 1, 2) .. sub(ARGV[2], 7, 7) .. ARGV[5]
if #p > 62 then
  -- Whoever sat there is told of first.
  call('RPUSH', KEYS[6], at .. '\2\6' .. sub(p, 32, 37) .. sub(p, 62, 63) .. sub(p, 68, 68) .. ARGV[5], connected)
else
  call('RPUSH', KEYS[6], connected)
end
return {4, p48(epoch), before, (counts(q))}
