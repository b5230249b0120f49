-- A place in the queue. A number in its lane is given when it can be delivered.
local number = p48(math.max(u48(p, 2) + 1, floor))
local field = sub(a, 1, 1) .. number
p = '\1' .. number .. sub(p, 8)
-- The time of acceptance is the last of the head: where that time of others is, it has its own.
accepted = sub(rest, -6)
local at = sub(rest, 1, 6)
local record = sub(a, 3, 6) .. '\0\0\0\0\0\0\0\0' .. number .. at .. rest
