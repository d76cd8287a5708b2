-- The state of one quota: {id, kind, held, since, expires, in_flight, charged, units}, its cap and what its kind of window keeps.
-- `since`: a grant older than this is not known here and gets no refund. `rule` is set while a rule of the batch is
-- obeyed.

local function quota_new(rule, now, wall)
  local quota = {
    id = rule.id, kind = rule.kind, held = rule.held, since = now, expires = now, in_flight = 0, charged = 0, units = 1,
    withheld = 0, withheld_until = 0, all_until = 0, surfaced_until = 0, asked_until = 0,
  }
  if rule.kind == 'sliding' then
    quota.slot, quota.ring = rule.slot, ring_new(rule.id, math.floor(now / rule.slot), rule.slots + 1)
  elseif rule.kind == 'draining' then
    draining_renew(quota, rule, math.floor(now / rule.tick))
  elseif rule.kind == 'fixed' then
    quota.begin = rule_window_at(rule, wall)
  end
  return quota
end

-- Lets time pass, as far as that takes no rule.
local function quota_pass(quota, now)
  if quota.kind == 'sliding' then
    sliding_advance(quota, now)
  elseif quota.kind == 'draining' then
    quota.withheld = drained(quota.withheld, draining_advance(quota, now))
  end
  cap_pass(quota, now)
end

-- Brings the state to `now`, and to the rule if that has changed.
local function quota_advance(quota, rule, now, wall)
  local kind, renewed = quota.kind, false
  quota.rule = rule
  quota_pass(quota, now)
  if kind == 'draining' then
    quota.withheld = rescaled(quota.withheld, quota.units, rule.units)
    renewed = draining_adopt(quota, rule)
  elseif kind == 'fixed' then
    renewed = fixed_advance(quota, rule_window_at(rule, wall))
  end
  if renewed then quota.since = now end
end

local function quota_charge(quota, amount)
  local kind = quota.kind
  if kind == 'sliding' then
    sliding_add(quota, quota.ring.head, amount)
  elseif kind == 'draining' then
    draining_charge(quota, amount)
  elseif kind == 'fixed' then
    fixed_charge(quota, amount)
  end
end

local function quota_reserve(quota, cost)
  quota.in_flight = math.min(quota.in_flight + cost, MAX_TAKEN)
  if not quota.rule.holds then quota_charge(quota, cost) end
end

-- A settle of `reserved`, of which `in_flight` still is; the rest went with a lease. Answers what stays in flight.
local function quota_settle(quota, at, reserved, actual, in_flight, close)
  local kind, amount, open = quota.kind, actual, 0
  quota.in_flight = drained(quota.in_flight, in_flight)
  -- What went with a lease became a charge then.
  if quota.rule.holds then amount = drained(actual, reserved - in_flight) end
  if not close then
    open = amount
    quota.in_flight = math.min(quota.in_flight + open, MAX_TAKEN)
  end

  local refundable = at >= quota.since
  if quota.rule.holds then
    if close then quota_charge(quota, amount) end
  elseif kind == 'sliding' then
    sliding_amend(quota, at, reserved, actual, refundable)
  elseif kind == 'draining' then
    draining_amend(quota, at, reserved, actual, refundable)
  elseif kind == 'fixed' then
    fixed_amend(quota, reserved, actual, refundable)
  end
  -- The provider had counted what is more already when it said what is left.
  if actual > reserved then quota.withheld = drained(quota.withheld, product(actual - reserved, quota.units)) end
  return open
end

-- The owner of `amount` in flight is gone: a hold becomes a charge.
local function quota_abandon(quota, amount, now)
  quota.in_flight = drained(quota.in_flight, amount)
  if quota.held then
    quota_pass(quota, now)
    quota_charge(quota, amount)
  end
end

local function quota_held(quota)
  return quota.rule.holds and quota.in_flight or 0
end

-- Charged and held together, in units of the window.
local function quota_taken(quota)
  local held = quota_held(quota)
  -- Nothing fits behind more than a burst that is held; amounts stay exact.
  if quota.kind == 'draining' then held = product(math.min(held, 2 * quota.burst), quota.units) end
  return sum(quota.charged, held)
end

-- What is asked together with those before it in the batch, in units. Who needs nothing stands behind nobody.
local function quota_asked(quota, cost, ahead)
  return cost == 0 and 0 or (cost + ahead) * quota.units
end

local function quota_fits(quota, cost, ahead, capacity)
  local gone = sum(quota_taken(quota), cap_withheld_from(quota, cost))
  return gone + quota_asked(quota, cost, ahead) <= product(capacity, quota.units) and not cap_pauses(quota, cost)
end

-- Units that came back since `at` at the provider, as far as its rule is this one; nil if what it said then means nothing
-- now.
local function quota_come_back(quota, at, now)
  local rule, kind, passed = quota.rule, quota.kind, drained(now, at)
  if kind == 'sliding' then
    local slots = math.max(rule.slots, 1)
    return math.floor(product(rule.limit, math.min(math.ceil(passed / rule.slot), slots)) / slots)
  elseif kind == 'draining' then
    return product(rule.limit, math.ceil(passed / rule.tick))
  elseif kind == 'fixed' and at >= quota.since then
    return 0
  end
end

-- How long what is said of a quota can mean something: a fixed window ends there when it ends here, or a bit later by
-- another clock.
local function quota_tells_for(quota, wall)
  if quota.kind ~= 'fixed' then return MAX_AMOUNT end
  local begin, next = rule_window_at(quota.rule, wall)
  return sum(fixed_end(quota, begin, next) - wall, math.floor((next - begin) / 20))
end

-- Withholds what is believed to be left beyond `left` whole tokens and what came back since `at`, for as long as it
-- `lasts`.
local function quota_withhold(quota, left, at, lasts, now, wall)
  local back = quota_come_back(quota, at, now)
  if not back then return end
  local until_then = sum(now, math.min(lasts, quota_tells_for(quota, wall)))
  local spoken_for = sum(quota_taken(quota), sum(product(left, quota.units), back))
  cap_withhold(quota, drained(product(rule_capacity(quota.rule, 0), quota.units), spoken_for), until_then)
end

-- Withholds everything.
local function quota_pause(quota, until_then)
  if quota.kind ~= 'in_flight' then cap_pause(quota, until_then) end
end

-- The same; nobody waits that out.
local function quota_surface(quota, until_then, asked_until, now)
  if quota.kind ~= 'in_flight' then cap_surface(quota, until_then, asked_until, now) end
end

-- For how long at most this means something, told without a walk over the charges. A hold may become a charge when its
-- `lease` ends.
local function quota_lasts(quota, lease, now, wall)
  local kind, holds, charged = quota.kind, quota_held(quota) > 0, 0
  if kind == 'sliding' then
    charged = sliding_length(quota)
  elseif kind == 'draining' then
    charged = draining_until_drained(quota, sum(quota_taken(quota), quota.excess), now)
  elseif kind == 'fixed' then
    local begin, next = rule_window_at(quota.rule, wall)
    charged = math.max(holds and next - begin or 0, fixed_end(quota, begin, next) - wall)
  end
  return math.max(holds and sum(lease, charged) or charged, cap_lasts(quota, now))
end

-- Time until everything charged has come back, or until the next fixed window.
local function quota_reset(quota, now, wall)
  if quota.kind == 'sliding' then
    return quota.charged == 0 and 0 or sliding_until_left(quota, quota.charged, now)
  elseif quota.kind == 'draining' then
    return draining_until_drained(quota, quota.charged, now)
  elseif quota.kind == 'fixed' then
    return fixed_end(quota, rule_window_at(quota.rule, wall)) - wall
  end
  return 0
end

-- What is withheld, all that is left while everything is.
local function quota_withheld(quota)
  if quota.all_until == 0 then return quota.withheld end
  local left = drained(product(rule_capacity(quota.rule, 0), quota.units), quota_taken(quota))
  return math.max(quota.withheld, left)
end

-- A quota is stored in three places. Among the numbers of its bucket, from index `i` on, what changes: since, expires,
-- in_flight, charged, head (a token bucket's tick, the beginning of a fixed window), newest; and from index `more` on, if
-- anything of the bucket is `capped`, its cap, and for a token bucket base, max_used, excess, excess_rate. In field "q", from index `j` on, what hardly ever does: id, kind,
-- held, slot, len, and rate, tick, units, burst, max_debt of a token bucket. In a field of its own, the ring.
local function quota_decoded(key, numbers, i, more, capped, shapes, j)
  local kind, slot, len, head = KINDS[shapes[j + 1]], shapes[j + 3], shapes[j + 4], numbers[i + 4]
  local quota = {
    id = shapes[j], kind = kind, held = shapes[j + 2] == 1, slot = slot, units = 1,
    since = numbers[i], expires = numbers[i + 1], in_flight = numbers[i + 2], charged = numbers[i + 3],
    withheld = 0, withheld_until = 0, all_until = 0, surfaced_until = 0, asked_until = 0,
  }
  if capped then
    quota.withheld, quota.withheld_until, quota.all_until = numbers[more], numbers[more + 1], numbers[more + 2]
    quota.surfaced_until, quota.asked_until = numbers[more + 3], numbers[more + 4]
    more = more + 5
  end
  if kind == 'fixed' then
    quota.begin = head
  elseif kind == 'sliding' then
    quota.ring = ring_stored(key, quota.id, head, len, numbers[i + 5])
  elseif kind == 'draining' then
    quota.ring = ring_stored(key, quota.id, math.floor(head / slot), len, numbers[i + 5])
    quota.at, quota.slots, quota.edited = head, len, false
    quota.rate, quota.tick, quota.units = shapes[j + 5], shapes[j + 6], shapes[j + 7]
    quota.burst, quota.max_debt = shapes[j + 8], shapes[j + 9]
    quota.base, quota.max_used = numbers[more], numbers[more + 1]
    quota.excess, quota.excess_rate = numbers[more + 2], numbers[more + 3]
    more = more + 4
  end
  return quota, more
end

-- Appends to the numbers, to those that follow them, and to the shapes.
local function quota_encode(quota, numbers, more, capped, shapes)
  local n, ring, kind = #numbers, quota.ring, quota.kind
  numbers[n + 1], numbers[n + 2], numbers[n + 3] = quota.since, quota.expires, quota.in_flight
  numbers[n + 4], numbers[n + 5] = quota.charged, quota.begin or quota.at or ring and ring.head or 0
  numbers[n + 6] = ring and ring.newest or 0
  if capped then
    n = #more
    more[n + 1], more[n + 2], more[n + 3] = quota.withheld, quota.withheld_until, quota.all_until
    more[n + 4], more[n + 5] = quota.surfaced_until, quota.asked_until
  end
  n = #shapes
  shapes[n + 1], shapes[n + 2], shapes[n + 3] = quota.id, KIND_NUMBERS[kind], quota.held and 1 or 0
  shapes[n + 4], shapes[n + 5] = quota.slot or 0, ring and ring.len or 0
  for i = 6, 10 do shapes[n + i] = 0 end
  if kind == 'draining' then
    shapes[n + 6], shapes[n + 7], shapes[n + 8] = quota.rate, quota.tick, quota.units
    shapes[n + 9], shapes[n + 10] = quota.burst, quota.max_debt
    n = #more
    more[n + 1], more[n + 2] = quota.base, quota.max_used
    more[n + 3], more[n + 4] = quota.excess, quota.excess_rate
  end
end
