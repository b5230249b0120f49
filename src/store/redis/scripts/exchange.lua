-- Exchange a row of a device for another: KEYS device, row. ARGV: 1 first and 2 last byte of the device's row to compare, 3 what
-- they must be, 4 the row as it was read ('': none), 5 the row as it is to be ('': none).
local device = call('GETRANGE', KEYS[1], 0, 21)
if #device == 0 then return {0} end
if byte(device, 2) ~= 0 then return {1} end
if sub(device, tonumber(ARGV[1]), tonumber(ARGV[2])) ~= ARGV[3] then return {2} end
local row = call('GET', KEYS[2]) or ''
if row ~= ARGV[4] then return {3, row} end
if ARGV[5] == '' then call('DEL', KEYS[2]) else call('SET', KEYS[2], ARGV[5]) end
return {4}
