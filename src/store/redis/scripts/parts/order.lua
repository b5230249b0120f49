
-- The fields of a queue, in the order in which events are written. Compared as numbers: Lua compares texts by the server's locale.
local REST = 281474976710656
local function rank(field)
  local number = u48(field, 2)
  if byte(field, 1) == 114 then number = number + REST end
  return number
end
local function fields(q)
  local ranks = {}
  for _, field in ipairs(call('HKEYS', q)) do
    local kind = byte(field, 1)
    if kind == 102 or kind == 114 then ranks[#ranks + 1] = rank(field) end
  end
  table.sort(ranks)
  for index, number in ipairs(ranks) do
    if number >= REST then ranks[index] = 'r' .. p48(number - REST) else ranks[index] = 'f' .. p48(number) end
  end
  return ranks
end
