-- An event with a TTL of 0: KEYS device, seat. ARGV: 1 accepted at.
local row = call('GETRANGE', KEYS[1], 0, 5)
if #row == 0 then return {0} end
if byte(row, 2) ~= 0 then return {1} end
local p = call('GET', KEYS[2]) or EMPTY
local now = math.max(u48(p, 52) + 1, tonumber(ARGV[1]))
-- Numbers of this lane need only rise for somebody who hears them.
if #p > 61 then call('SET', KEYS[2], sub(p, 1, 51) .. p48(now) .. sub(p, 58)) end
return {2, sub(row, 3, 6), p48(now), sub(p, 32, 37) .. sub(p, 62)}
