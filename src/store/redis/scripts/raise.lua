-- Raise a counter: KEYS counter. ARGV: 1 to that, at least.
if tonumber(call('GET', KEYS[1]) or '0') >= tonumber(ARGV[1]) then return 0 end
call('SET', KEYS[1], ARGV[1])
return 1
