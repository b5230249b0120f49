local lane = byte(a, 2)
local number = p48(math.max(u48(p, 2) + 1, floor))
local seq = p48(math.max(u48(p, lane) + 1, floor))
local field = sub(a, 1, 1) .. number
local numbers = number .. sub(p, 8, lane - 1) .. seq .. sub(p, lane + 6, 31)
local record = sub(a, 3, 6) .. seq .. '\0\1' .. number .. '\0\0\0\0\0\0' .. rest
