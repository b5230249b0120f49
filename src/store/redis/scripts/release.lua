-- Release: KEYS device, seat, outbox of the feed. ARGV: 1 epoch (6 bytes), 2 last seen at, 3 what a row of the feed begins with, 4 member.
local row = call('GETRANGE', KEYS[1], 0, 1)
if #row == 0 then return 0 end
if byte(row, 2) ~= 0 then return 1 end
local p = call('GET', KEYS[2])
if not p or #p <= 62 or sub(p, 32, 37) ~= ARGV[1] then return 2 end
local seen = math.max(u48(p, 38), tonumber(ARGV[2]))
call('SET', KEYS[2], sub(p, 1, 37) .. p48(seen) .. sub(p, 44, 61))
call('RPUSH', KEYS[3], ARGV[3] .. ARGV[1] .. sub(p, 62, 63) .. sub(p, 68, 68) .. ARGV[4])
return 3
