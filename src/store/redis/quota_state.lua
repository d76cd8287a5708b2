-- The state of one quota: {id, kind, held, since, expires, in_flight, charged, units} and what its kind of window keeps.
-- `since`: a grant older than this is not known here and gets no refund. `rule` is set while a rule of the batch is
-- obeyed.

local function quota_new(rule, now, wall)
  local quota = {
    id = rule.id, kind = rule.kind, held = rule.held, since = now, expires = now, in_flight = 0, charged = 0, units = 1,
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
    draining_advance(quota, now)
  end
end

-- Brings the state to `now`, and to the rule if that has changed.
local function quota_advance(quota, rule, now, wall)
  local kind, renewed = quota.kind, false
  quota.rule = rule
  quota_pass(quota, now)
  if kind == 'draining' then
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
  return quota_taken(quota) + quota_asked(quota, cost, ahead) <= product(capacity, quota.units)
end

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

-- Only asked where the demand does not fit. Answers the whole tokens available, the time until the demand fits if
-- nothing is refunded (or nil), and the same if everything in flight were refunded at once.
local function quota_shortage(quota, cost, ahead, capacity, now, wall)
  local units, taken = quota.units, quota_taken(quota)
  local in_units = product(capacity, units)
  local over = drained(sum(taken, quota_asked(quota, cost, ahead)), in_units)
  local refundable = product(quota.in_flight, units)
  local wait = quota_until_back(quota, over, quota_held(quota), cost, capacity, now, wall)
  local at_best = 0
  if over > refundable then
    at_best = quota_until_back(quota, over - refundable, 0, cost, capacity, now, wall) or 0
  end
  return math.floor((in_units - taken) / units), wait, at_best
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
  return holds and sum(lease, charged) or charged
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

-- A quota is stored in three places. Among the numbers of its bucket, from index `i` on, what changes: since, expires,
-- in_flight, charged, head (a token bucket's tick, the beginning of a fixed window), newest; and for a token bucket, from
-- index `more` on, base, max_used, excess, excess_rate. In field "q", from index `j` on, what hardly ever does: id, kind,
-- held, slot, len, and rate, tick, units, burst, max_debt of a token bucket. In a field of its own, the ring.
local function quota_decoded(key, numbers, i, more, shapes, j)
  local kind, slot, len, head = KINDS[shapes[j + 1]], shapes[j + 3], shapes[j + 4], numbers[i + 4]
  local quota = {
    id = shapes[j], kind = kind, held = shapes[j + 2] == 1, slot = slot, units = 1,
    since = numbers[i], expires = numbers[i + 1], in_flight = numbers[i + 2], charged = numbers[i + 3],
  }
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
local function quota_encode(quota, numbers, more, shapes)
  local n, ring, kind = #numbers, quota.ring, quota.kind
  numbers[n + 1], numbers[n + 2], numbers[n + 3] = quota.since, quota.expires, quota.in_flight
  numbers[n + 4], numbers[n + 5] = quota.charged, quota.begin or quota.at or ring and ring.head or 0
  numbers[n + 6] = ring and ring.newest or 0
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
