-- Add, change or remove a webhook: KEYS webhooks, state, waiting, dead letters, tenants. ARGV: 1 id, 2 revision that it must have
-- ('': none), 3 row as it is to be ('': none), 4 its tenant. A row is its revision, a space, and JSON. Answers whether it is so now: of a
-- tenant that was removed none is added or changed.
local row = call('HGET', KEYS[1], ARGV[1])
-- The step was made before, and its answer lost.
if (row or '') == ARGV[3] then return 1 end
if (row and string.match(row, '^%d+') or '') ~= ARGV[2] then return 0 end
if ARGV[3] == '' then
  call('HDEL', KEYS[1], ARGV[1])
  call('DEL', KEYS[2], KEYS[3], KEYS[4])
else
  local tenant = call('HGET', KEYS[5], ARGV[4])
  if tenant and cjson.decode(tenant).removed_at then return 0 end
  call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
return 1
