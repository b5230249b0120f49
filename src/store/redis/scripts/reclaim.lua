-- Put a seat back that this node's session holds: KEYS device, seat. ARGV: 1 epoch (6 bytes), 2 the seat, 3 credential generation
-- (4 bytes; '': whichever it is).
local row = call('GETRANGE', KEYS[1], 0, 9)
if #row == 0 or byte(row, 2) ~= 0 then return 0 end
if ARGV[3] ~= '' and sub(row, 7, 10) ~= ARGV[3] then return 0 end
local p = call('GET', KEYS[2]) or EMPTY
local epoch, mine = u48(p, 32), u48(ARGV[1], 1)
if epoch > mine then return 1 end
if epoch == mine and #p > 61 then return 2 end
call('SET', KEYS[2], sub(p, 1, 31) .. ARGV[1] .. sub(p, 38, 61) .. ARGV[2])
return 3
