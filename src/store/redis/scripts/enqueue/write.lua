local record = sub(a, 3, 6) .. seq .. '\0\1' .. number .. '\0\0\0\0\0\0' .. rest
local data = data_of(field, record)
sums = pack('>I4I6', events + 1, bytes + size)
if collapse then
  call('HSET', q, field, record, data, ARGV[2], '_', sums, collapse, field)
else
  call('HSET', q, field, record, data, ARGV[2], '_', sums)
end
if idempotent then
  call('HSET', s, idempotent, field .. sub(a, 43, 58) .. sub(rest, 1, 6))
  due = math.min(due, u48(rest, 1) + kept_ms)
end
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
