-- End the seats that a dead node has among some devices of a tenant in one bucket: KEYS outbox of the feed, seats.
-- ARGV: 1 node and incarnation (6 bytes), 2 what rows of the feed begin with, 3 what members of the tenant begin with, then the devices.
-- Answers how many.
-- What is left of such a seat is a mark: should the node live after all, it takes the seat again.
local lost = 0
for index = 2, #KEYS do
  local p = call('GET', KEYS[index])
  if p and sub(p, 62, 67) == ARGV[1] then
    local seen = math.max(u48(p, 38), u48(p, 85))
    call('SET', KEYS[index], sub(p, 1, 37) .. p48(seen) .. sub(p, 44, 61) .. 'L')
    call('RPUSH', KEYS[1], ARGV[2] .. sub(p, 32, 37) .. sub(p, 62, 63) .. sub(p, 68, 68) .. ARGV[3] .. ARGV[index + 2])
    lost = lost + 1
  end
end
return lost
