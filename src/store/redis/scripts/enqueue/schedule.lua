local at = sub(rest, 1, 6)
local record = sub(a, 3, 6) .. '\0\0\0\0\0\0\0\0' .. number .. at .. rest
local data = data_of(field, record)
sums = pack('>I4I6', events + 1, bytes + size)
if collapse then
  call('HSET', q, field, record, data, ARGV[2], '_', sums, collapse, field)
else
  call('HSET', q, field, record, data, ARGV[2], '_', sums)
end
if idempotent then
  call('HSET', s, idempotent, field .. sub(a, 43, 58) .. accepted)
  due = math.min(due, u48(accepted, 1) + kept_ms)
end
local member = sub(KEYS[1], -byte(a, 42))
call('SET', KEYS[1], look_by(KEYS[4], member, p, due))
call('INCR', KEYS[3])
-- From then on it is in its lane: requeue.lua.
call('ZADD', KEYS[8], 'LT', string.format('%.0f', u48(at, 1)), member)
return '\5' .. ordinal .. number .. '\0\0\0\0\0\0' .. replaced .. sub(p, 32, 37) .. sub(p, 62)
