-- Take the lease of a webhook: KEYS webhooks, state. ARGV: 1 id, 2 holder, 3 lasts (ms). Answers its fence; 0: another has it, or the
-- webhook is gone.
if call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local known = call('HMGET', KEYS[2], 'holder', 'fence', 'until')
if known[1] and known[1] ~= ARGV[2] and tonumber(known[3]) > now then return 0 end
local fence = tonumber(known[2] or '0') + 1
call('HSET', KEYS[2], 'holder', ARGV[2], 'fence', fence, 'until', string.format('%.0f', now + tonumber(ARGV[3])), 'redriven', '0')
return fence
