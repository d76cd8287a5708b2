-- What a provider said of a quota: a part of it is withheld for a while, or it is paused. This
-- never gives anything. A cap is a gate (see gate.lua) with {withheld, withheld_until}. `withheld`
-- is in units of the window; in a token bucket, what drains while nothing is used drains it.

-- RARE provider

local function cap_new()
  local cap = gate_new()
  cap.withheld, cap.withheld_until = 0, 0
  return cap
end

local function cap_withhold(cap, amount, until_then)
  if amount >= cap.withheld then
    cap.withheld, cap.withheld_until = amount, max(cap.withheld_until, until_then)
  end
end

function provider.cap_pass(cap, waiting, now)
  if cap.withheld_until <= now or cap.withheld == 0 then cap.withheld, cap.withheld_until = 0, 0 end
  gate_pass(cap, waiting, now)
  return cap.withheld > 0 or not gate_is_gone(cap)
end

function provider.cap_lasts(cap, now)
  return max(drained(cap.withheld_until, now), provider.gate_lasts(cap, now))
end
