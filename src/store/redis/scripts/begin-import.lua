-- Begin an import: KEYS identity, progress, version. ARGV: 1 progress as it was read ('': none), 2 progress, 3 identity.
if (call('GET', KEYS[2]) or '') ~= ARGV[1] then return 0 end
call('SET', KEYS[1], ARGV[3])
call('SET', KEYS[2], ARGV[2])
call('INCR', KEYS[3])
return 1
