-- Packed numbers: little-endian doubles. So many at most pass through one call, whose stack is limited.

local AT_ONCE = 7000

local function format_of(count)
  return '<' .. string.rep('d', count)
end

-- The numbers of a string, and how many they are.
local function numbers(packed)
  local count = (#packed - #packed % 8) / 8
  local list = {struct.unpack(format_of(count < AT_ONCE and count or AT_ONCE), packed)}
  for first = AT_ONCE, count - 1, AT_ONCE do
    local more = {struct.unpack(format_of(math.min(count - first, AT_ONCE)), packed, 8 * first + 1)}
    for i = 1, #more do list[first + i] = more[i] end
  end
  list[count + 1] = nil -- the position after them
  return list, count
end

local function packed_numbers(list, count)
  if count <= AT_ONCE then return struct.pack(format_of(count), unpack(list, 1, count)) end
  local parts = {}
  for first = 1, count, AT_ONCE do
    local last = math.min(first + AT_ONCE - 1, count)
    parts[#parts + 1] = struct.pack(format_of(last - first + 1), unpack(list, first, last))
  end
  return table.concat(parts)
end
