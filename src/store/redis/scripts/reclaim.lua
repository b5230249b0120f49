-- Put a seat back that this node's session holds: KEYS device, seat, outbox of the feed.
-- ARGV: 1 epoch (6 bytes), 2 the seat, 3 member, 4 now (6 bytes), 5 credential generation (4 bytes; '': whichever it is).
local row = call('GETRANGE', KEYS[1], 0, 9)
if #row == 0 or byte(row, 2) ~= 0 then return 0 end
if ARGV[5] ~= '' and sub(row, 7, 10) ~= ARGV[5] then return 0 end
local p = call('GET', KEYS[2]) or EMPTY
local epoch, mine = u48(p, 32), u48(ARGV[1], 1)
if epoch > mine then return 1 end
local at = sub(ARGV[2], 24, 29)
if epoch == mine then
  if #p > 62 then
    -- Two nodes may claim in one millisecond.
    if sub(p, 69, 84) ~= sub(ARGV[2], 8, 23) then return 1 end
    -- The feed has it. Its node may have another life since.
    call('SET', KEYS[2], sub(p, 1, 61) .. ARGV[2])
    return 2
  end
  -- Without the mark of a seat that was lost with its node, its own goodbye was here first.
  if #p < 62 then return 4 end
  at = ARGV[4]
end
local connected = at .. '\1\0' .. ARGV[1] .. sub(ARGV[2], 1, 2) .. sub(ARGV[2], 7, 7) .. ARGV[3]
if #p > 62 then
  call('RPUSH', KEYS[3], at .. '\2\6' .. sub(p, 32, 37) .. sub(p, 62, 63) .. sub(p, 68, 68) .. ARGV[3], connected)
else
  call('RPUSH', KEYS[3], connected)
end
call('SET', KEYS[2], sub(p, 1, 31) .. ARGV[1] .. sub(p, 38, 61) .. ARGV[2])
return 3
