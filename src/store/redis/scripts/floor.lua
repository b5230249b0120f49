-- The floor of numbers of a shard: KEYS floor. ARGV: 1 the run of the server. A run that is not known may have lost what was
-- not replicated: from there on numbers start above every one that was given out.
local kept = call('GET', KEYS[1])
if not kept then
  call('SET', KEYS[1], '0 ' .. ARGV[1])
  return 0
end
local floor, run = string.match(kept, '^(%d+) (.*)$')
floor = tonumber(floor)
if run == ARGV[1] then
  call('SET', KEYS[1], kept)
  return floor
end
local time = call('TIME')
floor = math.max(floor + 1000000, tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
call('SET', KEYS[1], string.format('%.0f ', floor) .. ARGV[1])
return floor
