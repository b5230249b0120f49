local before = u48(p, 44)
if before == 0 or before > due then
  p, numbers_only = look_by(KEYS[4], sub(KEYS[1], -byte(a, 42)), p, due), false
end
if numbers_only then
  call('SETRANGE', KEYS[1], '1', numbers)
else
  call('SET', KEYS[1], '\1' .. numbers .. sub(p, 32))
end
call('INCR', KEYS[3])
return '\5' .. ordinal .. number .. seq .. replaced .. sub(p, 32, 37) .. sub(p, 62)
