-- At most `limit` between two boundaries of a clock or a calendar: {window_end, charged}.

-- RARE fixed

-- Enters the window from `begin` to `next`, which `wall` is in, if the one in use has ended.
-- Returns whether it has. Where the clock was stepped back, the window in use goes on, but no
-- longer than a whole one: a clock that was wrong by a year must not block for a year.
function fixed.fixed_advance(window, begin, next, wall)
  local has_ended = wall >= window.window_end
  if has_ended then window.window_end, window.charged = next, 0 end
  window.window_end = min(window.window_end, wall + (next - begin))
  return has_ended
end

function fixed.fixed_charge(window, amount)
  window.charged = min(window.charged + amount, MAX_TAKEN)
end

-- Replaces what was charged in this window; what belongs to an earlier one changes nothing.
function fixed.fixed_amend(window, reserved, actual, of_this_window)
  if of_this_window then
    window.charged = min(drained(window.charged + actual, reserved), MAX_TAKEN)
  end
end
