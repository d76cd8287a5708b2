-- At most `limit` between two boundaries of a clock or a calendar: {begin, charged}.

-- Enters the window that begins at `begin`; answers whether it is a new one. Never goes back.
local function fixed_advance(window, begin)
  if begin <= window.begin then return false end
  window.begin, window.charged = begin, 0
  return true
end

local function fixed_charge(window, amount)
  window.charged = sum(window.charged, amount)
end

-- Replaces what was charged in this window; what belongs to an earlier one changes nothing.
local function fixed_amend(window, reserved, actual, of_this_window)
  if of_this_window and actual >= reserved then
    fixed_charge(window, actual - reserved)
  elseif of_this_window then
    window.charged = math.max(window.charged - (reserved - actual), 0)
  end
end
