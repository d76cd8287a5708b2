-- What a provider said of a quota: it withholds a part of it for a while, or all of it, and never gives any. Part of the
-- quota: {withheld, withheld_until, all_until}, in units of its window; `all_until` is what Rust calls `paused_until`.

-- Withholds more than before, or for longer. What would withhold less changes nothing.
local function cap_withhold(quota, amount, until_then)
  if amount > 0 and amount >= quota.withheld then
    quota.withheld, quota.withheld_until = amount, math.max(quota.withheld_until, until_then)
  end
end

-- Ends what is over.
local function cap_pass(quota, now)
  if quota.withheld_until <= now or quota.withheld == 0 then quota.withheld, quota.withheld_until = 0, 0 end
  if quota.all_until <= now then quota.all_until = 0 end
end

-- What is withheld from a demand. One that needs nothing is not held up.
local function cap_withheld_from(quota, cost)
  return cost == 0 and 0 or quota.withheld
end

local function cap_pauses(quota, cost)
  return cost > 0 and quota.all_until > 0
end

-- Time until this means nothing any more.
local function cap_lasts(quota, now)
  return drained(math.max(quota.withheld_until, quota.all_until), now)
end
