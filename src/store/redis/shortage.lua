-- Why a demand does not fit on a quota, and when it will.

-- RARE waiting

local WINDOWS_AHEAD = 4

local function quota_until_back(quota, over, held, ask, now, wall)
  local kind = quota.kind
  if kind == IN_FLIGHT then return nil end
  if kind == DRAINING then
    if held + ask.cost > ask.capacity then return nil end
    return rare.draining.draining_until_drained(quota, over, now)
  end
  local beyond = drained(over, quota.charged)
  if beyond > 0 and held > 0 then return nil end
  local wait, length
  if kind == SLIDING then
    wait = waiting.sliding_until_left(quota, over - beyond, now)
    length = product(quota.len, quota.slot)
    if not wait then return nil end
  else
    wait, length = drained(quota.window_end, wall), quota.next - quota.begin
  end
  -- As many windows more as it takes until what is beyond has passed too.
  return sum(wait, product(ceil(beyond / max(ask.capacity, 1)), length))
end

-- It does not fit by `capped` units while something is withheld, and by `free` after that.
local function quota_until_fits(quota, capped, free, held, ask, now, wall)
  local wait = 0
  if free > 0 then wait = quota_until_back(quota, free, held, ask, now, wall) end
  if capped <= free then return wait end
  local beside = nil
  -- What is withheld of a bucket that drains, drains too.
  if quota.kind == DRAINING or quota.kind ~= IN_FLIGHT and capped <= quota.charged then
    beside = quota_until_back(quota, capped, held, ask, now, wall)
  end
  local lifts_in = quota.cap and drained(quota.cap.withheld_until, now) or 0
  wait = wait and max(wait, lifts_in)
  if beside then return wait and min(wait, beside) or beside end
  return wait
end

-- Returns the whole tokens available, negative in debt; the time until the demand fits if nothing
-- is refunded, or nil; and the same if everything in flight were refunded at once.
local function quota_shortage(quota, ask, now, wall)
  local units, taken = quota.units, quota.taken
  local capacity, asked = product(ask.capacity, units), asked_units(quota, ask, ask.ahead)
  local gone = sum(taken, quota_withheld_from(quota, ask.cost))
  local capped, free = drained(sum(gone, asked), capacity), drained(sum(taken, asked), capacity)
  local refundable, paused = product(quota.in_flight, units), quota_paused_for(quota, ask, now)
  local held = quota.holds and quota.in_flight or 0
  local available = floor((capacity - gone) / units)
  local wait = quota_until_fits(quota, capped, free, held, ask, now, wall)
  asked = asked_units(quota, ask, min(ask.ahead, WINDOWS_AHEAD * quota.whole))
  capped, free = drained(sum(gone, asked), capacity), drained(sum(taken, asked), capacity)
  capped, free = drained(capped, refundable), drained(free, refundable)
  local at_best = quota_until_fits(quota, capped, free, 0, ask, now, wall) or 0
  if paused > 0 then available = min(available, 0) end
  return available, wait and max(wait, paused), max(at_best, paused)
end
