if old_rec then
  local device = sub(KEYS[1], -byte(a, 41))
  local by, flag = field, '\4'
  if byte(a, 4) >= 128 then by, flag = sub(rest, 13, 22), '\128' end
  local ended, ending = '\1', '\7\0' .. flag .. accepted .. '\0\0\0\0\0\0' .. by
  if u48(old_rec, 31) <= u48(accepted, 1) then
    ended, ending = '\2', '\6\0\0' .. accepted .. '\0\0\0\0\0\0'
  end
  local born = tell(s, KEYS[6], old, old_rec, ending, sub(a, 39, 40) .. ordinal .. sub(a, 41, 41) .. device)
  bytes = take(q, old, old_rec, events, bytes)
  free(s, old_rec, born, now, kept_ms)
  events = events - 1
  replaced = ended .. born
end
