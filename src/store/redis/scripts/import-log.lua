-- Import receipts into a tenant's log: KEYS log, moved. ARGV: pairs of a position and a receipt, in order. Those that follow one another make
-- one entry, as in append.lua. What is there already is left out. An empty log begins with the first of them.
local top, added, at = 0, 0, 0
local newest = call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', '1')
if #newest > 0 then top = tonumber(string.match(newest[1][1], '^%d+')) else call('HSETNX', KEYS[2], 'first', ARGV[1]) end
local rows = {}
local function write()
  if #rows == 0 then return end
  call('XADD', KEYS[1], string.format('%.0f-0', at), 'r', table.concat(rows))
  added, rows = added + #rows, {}
end
for index = 1, #ARGV, 2 do
  local position = tonumber(ARGV[index])
  if position > top then
    if position ~= at + 1 then write() end
    local row = ARGV[index + 1]
    local length = #row < 255 and char(#row) or '\255' .. pack('>I2', #row)
    rows[#rows + 1] = length .. row
    at, top = position, position
  end
end
write()
if top > tonumber(call('HGET', KEYS[2], 'last') or '0') then call('HSET', KEYS[2], 'last', string.format('%.0f', top)) end
if added > 0 then call('HINCRBY', KEYS[2], 'rows', string.format('%.0f', added)) end
return added
