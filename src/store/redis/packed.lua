-- Packed numbers: little-endian doubles. So many at most pass through one call, whose stack is
-- limited.

local AT_ONCE = 7000

-- RARE packed

-- The numbers of a string, and how many they are.
function packed.numbers(text)
  local count = (#text - #text % 8) / 8
  local list = {struct.unpack('<' .. string.rep('d', min(count, AT_ONCE)), text)}
  for first = AT_ONCE, count - 1, AT_ONCE do
    local format = '<' .. string.rep('d', min(count - first, AT_ONCE))
    local more = {struct.unpack(format, text, 8 * first + 1)}
    for i = 1, #more do list[first + i] = more[i] end
  end
  list[count + 1] = nil -- the position after them
  return list, count
end

-- The first `count` numbers of a list, packed.
function packed.pack(list, count)
  local parts = {}
  for first = 1, count, AT_ONCE do
    local last = min(first + AT_ONCE - 1, count)
    local format = '<' .. string.rep('d', last - first + 1)
    parts[#parts + 1] = struct.pack(format, unpack(list, first, last))
  end
  return table.concat(parts)
end
