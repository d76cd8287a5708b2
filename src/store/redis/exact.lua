-- Arithmetic that stays exact: numbers are doubles. Amounts and times are integers up to
-- MAX_AMOUNT, below which every sum, product, quotient and remainder of two of them is exact; what
-- would be more stops there, as it does in Rust.

local MAX_AMOUNT = 9007199254740991

local MAX_TAKEN = 2251799813685248

-- What is left of `amount` without `less`.
local function drained(amount, less)
  return amount > less and amount - less or 0
end

local function sum(a, b)
  local c = a + b
  return c < MAX_AMOUNT and c or MAX_AMOUNT
end

local function product(a, b)
  local c = a * b
  return c < MAX_AMOUNT and c or MAX_AMOUNT
end
