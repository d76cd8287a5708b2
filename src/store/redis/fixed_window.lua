-- At most `limit` between two boundaries of a clock or a calendar: {begin, charged}.

-- Enters the window from `begin` to `next`; answers whether it is a new one. Where the clock was stepped back, the
-- window in use is ahead of it and stays in use; but no further ahead than the next one.
local function fixed_advance(window, begin, next)
  if begin <= window.begin then
    window.begin = math.min(window.begin, next)
    return false
  end
  window.begin, window.charged = begin, 0
  return true
end

-- The end of the window in use, where the clock is in the one from `begin` to `next`.
local function fixed_end(window, begin, next)
  return window.begin >= next and next + (next - begin) or next
end

local function fixed_charge(window, amount)
  window.charged = math.min(window.charged + amount, MAX_TAKEN)
end

-- Replaces what was charged in this window; what belongs to an earlier one changes nothing.
local function fixed_amend(window, reserved, actual, of_this_window)
  if of_this_window then
    window.charged = math.min(drained(window.charged + actual, reserved), MAX_TAKEN)
  end
end
