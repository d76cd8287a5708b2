-- At most `limit` between two boundaries of a clock or a calendar: {window_end, charged}.

-- Enters the window from `begin` to `next`, which `wall` is in, if the one in use has ended. Returns whether
-- it has. Where the clock was stepped back, the window in use goes on, but no longer than a whole one: a
-- clock that was wrong by a year must not block for a year.
local function fixed_advance(window, begin, next, wall)
  local has_ended = wall >= window.window_end
  if has_ended then window.window_end, window.charged = next, 0 end
  local latest = wall + (next - begin)
  if window.window_end > latest then window.window_end = latest end
  return has_ended
end

local function fixed_charge(window, amount)
  local charged = window.charged + amount
  window.charged = charged < MAX_TAKEN and charged or MAX_TAKEN
end

-- Replaces what was charged in this window; what belongs to an earlier one changes nothing.
local function fixed_amend(window, reserved, actual, of_this_window)
  if of_this_window then
    local charged = drained(window.charged + actual, reserved)
    window.charged = charged < MAX_TAKEN and charged or MAX_TAKEN
  end
end
