-- Numbers are doubles. Amounts and times are integers up to MAX_AMOUNT, below which every sum, product, quotient
-- and remainder of two of them is exact; what would be more stops there, as it does in Rust.
local MAX_AMOUNT = 9007199254740991

-- The most that a window or the calls in flight are taken to hold.
local MAX_TAKEN = 2251799813685248

-- What is left of `used` after `drain`.
local function drained(used, drain)
  return used > drain and used - drain or 0
end

local function sum(a, b)
  local c = a + b
  if c > MAX_AMOUNT then return MAX_AMOUNT end
  return c
end

local function product(a, b)
  local c = a * b
  if c > MAX_AMOUNT then return MAX_AMOUNT end
  return c
end

-- Units of a token bucket that counts `from` units in a token, in one that counts `to`.
local function rescaled(amount, from, to)
  if to >= from then return product(amount, math.ceil(to / from)) end
  return math.ceil(amount / math.floor(from / to))
end

-- Packed numbers are little-endian doubles. So many at most pass through one call, whose stack is limited.
local AT_ONCE = 4000

local function numbers(packed, from, count)
  if count <= AT_ONCE then
    local list = {struct.unpack('<' .. string.rep('d', count), packed, from)}
    list[count + 1] = nil -- the position after them
    return list
  end
  local list = numbers(packed, from, AT_ONCE)
  local rest = numbers(packed, from + 8 * AT_ONCE, count - AT_ONCE)
  for i = 1, count - AT_ONCE do list[AT_ONCE + i] = rest[i] end
  return list
end

local function packed_numbers(list, first, last)
  if last - first < AT_ONCE then
    return struct.pack('<' .. string.rep('d', last - first + 1), unpack(list, first, last))
  end
  local middle = first + AT_ONCE
  return packed_numbers(list, first, middle - 1) .. packed_numbers(list, middle, last)
end
