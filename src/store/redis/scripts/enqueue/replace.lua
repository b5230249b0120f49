if old_rec then
  local device = sub(KEYS[1], -byte(a, 41))
  local ended, ending = '\1', '\7\0\4' .. accepted .. '\0\0\0\0\0\0' .. field
  if u48(old_rec, 31) <= u48(accepted, 1) then
    ended, ending = '\2', '\6\0\0' .. accepted .. '\0\0\0\0\0\0'
  end
  local born = tell(s, KEYS[6], old, old_rec, ending, sub(a, 39, 40) .. ordinal .. sub(a, 41, 41) .. device)
  bytes = take(q, old, old_rec, events, bytes)
  free(s, old_rec, born, now, kept_ms)
  events = events - 1
  replaced = ended .. born
end
