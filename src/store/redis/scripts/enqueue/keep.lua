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
