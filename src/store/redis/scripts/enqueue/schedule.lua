local member = sub(KEYS[1], -byte(a, 42))
call('SET', KEYS[1], look_by(KEYS[4], member, p, due))
call('INCR', KEYS[3])
-- From then on it is in its lane: requeue.lua.
call('ZADD', KEYS[8], 'LT', string.format('%.0f', u48(at, 1)), member)
return '\5' .. ordinal .. number .. '\0\0\0\0\0\0' .. replaced .. sub(p, 32, 37) .. sub(p, 62)
