-- Why a demand does not fit on a quota, and when it will.

-- Time until `over` units of what is charged have come back by themselves while `held` stays; nil while that depends on
-- calls in flight.
local function quota_until_back(quota, over, held, cost, capacity, now, wall)
  local kind = quota.kind
  if kind == 'draining' then
    if held + cost > capacity then return nil end
    return draining_until_drained(quota, over, now)
  elseif kind == 'in_flight' then
    return nil
  end
  local beyond = drained(over, quota.charged)
  if beyond > 0 and held > 0 then return nil end
  local wait, length
  if kind == 'sliding' then
    wait, length = sliding_until_left(quota, over - beyond, now), sliding_length(quota)
  else
    local begin, next = rule_window_at(quota.rule, wall)
    wait, length = fixed_end(quota, begin, next) - wall, next - begin
  end
  return sum(wait, product(math.ceil(beyond / math.max(capacity, 1)), length))
end

-- Time until a demand fits by itself while `held` stays: when enough has come back beside what is withheld, or when that
-- is over. It is over by `capped` units until then, and by `free` after it.
local function quota_until_fits(quota, capped, free, held, cost, capacity, now, wall)
  local wait = 0
  if free > 0 then wait = quota_until_back(quota, free, held, cost, capacity, now, wall) end
  if capped > free then
    local beside = nil
    -- What is withheld of a bucket that drains, drains too.
    if quota.kind == 'draining' or capped <= quota.charged then
      beside = quota_until_back(quota, capped, held, cost, capacity, now, wall)
    end
    wait = wait and math.max(wait, drained(quota.withheld_until, now))
    if beside then wait = wait and math.min(wait, beside) or beside end
  end
  if wait and cap_pauses(quota, cost) then wait = math.max(wait, drained(quota.all_until, now)) end
  return wait
end

-- Only asked where the demand does not fit. Answers the whole tokens available, the time until the demand fits if
-- nothing is refunded (or nil), and the same if everything in flight were refunded at once.
local function quota_shortage(quota, cost, ahead, capacity, now, wall)
  local units, taken = quota.units, quota_taken(quota)
  local in_units, asked = product(capacity, units), quota_asked(quota, cost, ahead)
  local gone = sum(taken, cap_withheld_from(quota, cost))
  local capped, free = drained(sum(gone, asked), in_units), drained(sum(taken, asked), in_units)
  local refundable = product(quota.in_flight, units)
  local available = math.floor((in_units - gone) / units)
  if cap_pauses(quota, cost) then available = math.min(available, 0) end
  local wait = quota_until_fits(quota, capped, free, quota_held(quota), cost, capacity, now, wall)
  capped, free = drained(capped, refundable), drained(free, refundable)
  return available, wait, quota_until_fits(quota, capped, free, 0, cost, capacity, now, wall) or 0
end
