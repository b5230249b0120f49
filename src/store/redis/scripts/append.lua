-- Append receipts to a tenant's log: KEYS log, moved. ARGV: 1 bucket, 2 floor of positions, then pairs of a position in the outbox and a receipt.
local moved = tonumber(call('HGET', KEYS[2], ARGV[1]) or '0')
local last = tonumber(call('HGET', KEYS[2], 'last') or '0')
last = math.max(last, tonumber(ARGV[2]))
local added = 0
for index = 3, #ARGV, 2 do
  local at = tonumber(ARGV[index])
  if at > moved then
    last, moved, added = last + 1, at, added + 1
    call('XADD', KEYS[1], string.format('%.0f-0', last), 'r', ARGV[index + 1])
  end
end
call('HSET', KEYS[2], ARGV[1], string.format('%.0f', moved), 'last', string.format('%.0f', last))
return added
