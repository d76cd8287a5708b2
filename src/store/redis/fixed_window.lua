-- At most `limit` between two boundaries of a clock or a calendar: {window_end, charged}.

-- RARE fixed

function fixed.fixed_advance(window, begin, next, wall)
  local has_ended = wall >= window.window_end
  if has_ended then window.window_end, window.charged = next, 0 end
  window.window_end = min(window.window_end, wall + (next - begin))
  return has_ended
end

function fixed.fixed_charge(window, amount)
  window.charged = min(window.charged + amount, MAX_TAKEN)
end

-- Replaces what was charged to the settles of a run: see quota_state.lua.
function fixed.fixed_amend(window, many, at, reserved, actual)
  local charged, since, nth = window.charged, window.since, rare.rows.nth
  for i = 0, many - 1 do
    if nth(at, i) >= since then
      charged = min(drained(charged + nth(actual, i), nth(reserved, i)), MAX_TAKEN)
    end
  end
  window.charged = charged
end
