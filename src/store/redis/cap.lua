-- What a provider said of a quota: it withholds a part of it for a while, or all of it, and never gives any. Part of the
-- quota: {withheld, withheld_until, all_until} and what is surfaced, in units of its window; `all_until` is what Rust calls
-- `paused_until`.

-- Withholds more than before, or for longer. What would withhold less changes nothing.
local function cap_withhold(quota, amount, until_then)
  if amount > 0 and amount >= quota.withheld then
    quota.withheld, quota.withheld_until = amount, math.max(quota.withheld_until, until_then)
  end
end

local function cap_pause(quota, until_then)
  quota.all_until = math.max(quota.all_until, until_then)
end

-- The same; nobody waits that out.
local function cap_surface(quota, until_then, asked_until, now)
  cap_pause(quota, until_then)
  surfaced_extend(quota, until_then, asked_until, now)
end

-- Ends a pause. A part may be withheld still.
local function cap_resume(quota)
  quota.all_until, quota.surfaced_until, quota.asked_until = 0, 0, 0
end

-- Ends what is over.
local function cap_pass(quota, now)
  if quota.withheld_until <= now or quota.withheld == 0 then quota.withheld, quota.withheld_until = 0, 0 end
  if quota.all_until <= now then cap_resume(quota) end
end

-- What is withheld from a demand. One that needs nothing is not held up.
local function cap_withheld_from(quota, cost)
  return cost == 0 and 0 or quota.withheld
end

local function cap_pauses(quota, cost)
  return cost > 0 and quota.all_until > 0
end

-- What is left of a wait that nobody waits out, for a demand of this cost, or 0.
local function cap_asked(quota, cost, now)
  return cost == 0 and 0 or surfaced_asked(quota, quota.all_until, now)
end

-- Time until this means nothing any more.
local function cap_lasts(quota, now)
  return drained(math.max(quota.withheld_until, quota.all_until), now)
end
