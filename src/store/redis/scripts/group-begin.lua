-- Begins a group: KEYS record, idempotency key (or the record again), groups.
-- ARGV: 1 record, 2 until when it is kept, 3 member, 4 score, 5 number 8 and hash of the body 16 ('': no key), 6 number that the key
-- may belong to.
if ARGV[5] ~= '' then
  local kept = call('GET', KEYS[2])
  if kept and kept ~= ARGV[5] and sub(kept, 1, 8) ~= ARGV[6] then
    -- Written again, so that the wait for replicas covers the first time.
    call('SET', KEYS[2], kept, 'KEEPTTL')
    return kept
  end
end
if not call('SET', KEYS[1], ARGV[1], 'PXAT', ARGV[2], 'NX') then return '\0' end
if ARGV[5] ~= '' then call('SET', KEYS[2], ARGV[5], 'PXAT', ARGV[2]) end
call('ZADD', KEYS[3], ARGV[4], ARGV[3])
return ''
