-- The state of one quota, with what its rule says (see rule.lua): {since, in_flight, share,
-- charged, taken, cap} and what its kind of window keeps. `since`: a grant older than this is not
-- known here and gets no refund. `share` is the sending session's part of what is in flight.
-- `charged` is in units of the window; `taken`, what a demand has to fit beside, is that with what
-- is held. `cap` is false or what a provider said (see cap.lua).
--
-- Stored among the numbers of its bucket: since, in_flight; but for calls in flight charged; and,
-- by kind, head, newest; at, newest, drain, before, max_used, excess, excess_rate, ceiling; or
-- window_end. A ring is a field of its own.

-- What is taken of a quota that holds what is in flight.
local function quota_held_and_charged(quota)
  local held, kind = quota.in_flight, quota.kind
  if kind == IN_FLIGHT then return held end
  if kind == DRAINING then held = product(math.min(held, 2 * quota.whole), quota.units) end
  return sum(quota.charged, held)
end

local function quota_pass(quota, now)
  local kind = quota.kind
  if kind == SLIDING then
    if now >= quota.began + quota.slot then rare.rings.sliding_advance(quota, now) end
  elseif kind == DRAINING then
    local target = (now - now % quota.tick) / quota.tick
    if target > quota.at then
      local unused = rare.draining.draining_advance(quota, target)
      if quota.cap then quota.cap.withheld = drained(quota.cap.withheld, unused) end
    end
  end
end

local function quota_charge(quota, amount)
  local kind = quota.kind
  if kind == SLIDING then
    local room = MAX_TAKEN - quota.charged
    if amount > room then amount = room end
    quota.charged, quota.newest = quota.charged + amount, quota.newest + amount
  elseif kind == DRAINING then
    rare.draining.draining_charge(quota, amount)
  elseif kind == FIXED then
    rare.fixed.fixed_charge(quota, amount)
  end
end

-- What the reserves of a run ask of its quotas together, if that fits: what fits at once fits one
-- after the other. Returns nothing if it does not, or may not.
local function quotas_fit(quotas, at, many, count, headroom)
  local asked = {}
  for k = 1, count do
    local quota, column = quotas[k], at + 2 + 2 * k
    -- Of a lone one without a call.
    local cost = many == 1 and message[message[column]] or column_sum(column, many)
    local room = quota.room
    if headroom > 0 and cost > 0 then
      room = product(rare.classes.less_headroom(quota.whole, headroom), quota.units)
    end
    if quota.taken + cost * quota.units > room then return nil end
    asked[k] = cost
  end
  return asked
end

-- Charges what the sending session reserves.
local function quota_reserve(quota, cost)
  local in_flight, share = quota.in_flight + cost, quota.share + cost
  quota.in_flight = in_flight < MAX_TAKEN and in_flight or MAX_TAKEN
  quota.share = share < MAX_TAKEN and share or MAX_TAKEN
  if quota.holds then
    quota.taken = quota_held_and_charged(quota)
  else
    quota_charge(quota, cost)
    quota.taken = quota.charged
  end
end

-- The settles of a run, with when they were granted, what was reserved and what is charged in
-- these columns. `oldest` and `latest` are when the first and the last were granted; what was
-- granted before `known_since` is not in the session's share, it went with a lease.
local function quota_settle(quota, many, at, reserved, actual, oldest, latest, known_since, close)
  local kind, holds = quota.kind, quota.holds
  if close and oldest >= known_since and (not holds or kind == IN_FLIGHT) then
    local left = many == 1 and message[message[reserved]] or column_sum(reserved, many)
    local share, in_flight = quota.share, quota.in_flight
    if left > share then left = share end
    quota.share, quota.in_flight = share - left, in_flight > left and in_flight - left or 0
  else
    rare.holds.quota_settle_holds(quota, many, at, reserved, actual, known_since, close)
  end
  if not holds then
    if kind == SLIDING then
      sliding_amend(quota, many, at, reserved, actual, oldest, latest)
    elseif kind == DRAINING then
      rare.draining.draining_amend(quota, many, at, reserved, actual)
    else
      rare.fixed.fixed_amend(quota, many, at, reserved, actual)
    end
  end
  quota.taken = holds and quota_held_and_charged(quota) or quota.charged
  if quota.cap then rare.provider.quota_settle_cap(quota, many, reserved, actual) end
end

local function quota_lasts(quota, lease, now, wall)
  local kind, holds, lasts = quota.kind, quota.holds and quota.in_flight > 0, 0
  if kind == SLIDING then
    lasts = product(quota.len, quota.slot)
  elseif kind == DRAINING then
    lasts = rare.draining.draining_until_drained(quota, sum(quota.taken, quota.excess), now)
  elseif kind == FIXED then
    lasts = math.max(holds and quota.next - quota.begin or 0, drained(quota.window_end, wall))
  end
  if holds then lasts = sum(lease, lasts) end
  return quota.cap and math.max(lasts, rare.provider.cap_lasts(quota.cap, now)) or lasts
end

-- RARE holds

-- Takes from what is in flight, where not all of it is known or a part stays in flight or becomes
-- a charge.
function holds.quota_settle_holds(quota, many, at, reserved, actual, known_since, close)
  local share, in_flight, nth = quota.share, quota.in_flight, rare.rows.nth
  for i = 0, many - 1 do
    local amount, asked, stands = nth(actual, i), nth(reserved, i), nth(at, i) >= known_since
    local left = stands and min(asked, share) or 0
    share, in_flight = share - left, drained(in_flight, left)
    if quota.holds then amount = drained(amount, asked - left) end
    -- Nothing would ever end what the others leave in flight.
    if stands and not close then
      share, in_flight = min(share + amount, MAX_TAKEN), min(in_flight + amount, MAX_TAKEN)
    elseif quota.holds then
      quota_charge(quota, amount)
    end
  end
  quota.share, quota.in_flight = share, in_flight
end

-- RARE waiting

-- For how long at most, on a quota that does not come back by itself, a head that other quotas hold
-- back blocks others.
local SOON = 1000000

local function quota_horizon(quota)
  if quota.kind == SLIDING then return product(quota.len, quota.slot) end
  if quota.kind == DRAINING then return draining_horizon(quota) end
  return SOON
end

local function asked_units(quota, ask, ahead)
  return ask.cost == 0 and 0 or (ask.cost + ahead) * quota.units
end

local function quota_withheld_from(quota, cost)
  return quota.cap and cost > 0 and quota.cap.withheld or 0
end

local function quota_paused_for(quota, ask, now)
  return quota.cap and ask.cost > 0 and rare.provider.gate_wait(quota.cap, ask.before, now) or 0
end

local function quota_asked(quota, cost, now)
  return quota.cap and cost > 0 and rare.provider.gate_asked(quota.cap, now) or nil
end

local function quota_fits(quota, ask, now)
  local gone = quota.taken
  if quota.cap then gone = sum(gone, quota_withheld_from(quota, ask.cost)) end
  return gone + asked_units(quota, ask, ask.ahead) <= product(ask.capacity, quota.units)
    and not (quota.cap and quota_paused_for(quota, ask, now) > 0)
end

local function quota_most_ahead(quota, ask)
  if ask.cost == 0 then return math.huge end
  local gone = sum(quota.taken, quota_withheld_from(quota, ask.cost))
  return (product(ask.capacity, quota.units) - gone) / quota.units - ask.cost
end

-- RARE provider

-- The provider had counted what settles charge more already when it said what is left.
function provider.quota_settle_cap(quota, many, reserved, actual)
  local cap, nth = quota.cap, rare.rows.nth
  for i = 0, many - 1 do
    local more = drained(nth(actual, i), nth(reserved, i))
    cap.withheld = drained(cap.withheld, product(more, quota.units))
  end
end

local function quota_tells_for(quota, wall)
  if quota.kind ~= FIXED then return MAX_AMOUNT end
  return sum(drained(quota.window_end, wall), floor((quota.next - quota.begin) / 20))
end

local function quota_come_back(quota, at, now)
  local kind, passed = quota.kind, drained(now, at)
  if kind == SLIDING then
    local slots = max(quota.len - 1, 1)
    return floor(product(quota.whole, min(ceil(passed / quota.slot), slots)) / slots)
  elseif kind == DRAINING then
    return product(quota.rate, ceil(passed / quota.tick))
  elseif kind == FIXED and at >= quota.since then
    return 0
  end
end

local function quota_withhold(quota, left, at, lasts, now, wall)
  local back = quota_come_back(quota, at, now)
  if not back then return end
  local spoken_for = sum(quota.taken, sum(product(left, quota.units), back))
  local withheld = drained(quota.room, spoken_for)
  if withheld > 0 then
    quota.cap = quota.cap or cap_new()
    cap_withhold(quota.cap, withheld, sum(now, min(lasts, quota_tells_for(quota, wall))))
  end
end

local function quota_refuse(quota, refusal, now)
  if quota.kind == IN_FLIGHT then return end
  quota.cap = quota.cap or cap_new()
  gate_refuse(quota.cap, refusal, now)
end

-- Appends how it stands: what is charged, what is in flight, the time until everything charged has
-- come back or until the next fixed window, what is withheld, for how long at most, and what is
-- left of a wait that demands are not to wait for (-1 if there is none).
local function quota_append_level(quota, to, now, wall)
  local kind, cap, charged, reset, n = quota.kind, quota.cap, quota.charged, 0, #to
  if kind == SLIDING then
    if charged > 0 then reset = rare.waiting.sliding_until_left(quota, charged, now) or 0 end
  elseif kind == DRAINING then
    reset = rare.draining.draining_until_drained(quota, charged, now)
  elseif kind == FIXED then
    reset = drained(quota.window_end, wall)
  end
  local withheld, withheld_for = 0, 0
  if cap then
    local paused_until = gate_paused_until(cap, now)
    withheld = cap.withheld
    if paused_until > 0 then withheld = max(withheld, drained(quota.room, quota.taken)) end
    withheld_for = max(drained(cap.withheld_until, now), drained(paused_until, now))
  end
  to[n + 1], to[n + 2], to[n + 3] = charged, quota.in_flight, reset
  to[n + 4], to[n + 5] = withheld, withheld_for
  to[n + 6] = cap and provider.gate_asked(cap, now) or -1
end

-- RARE changes

-- Takes in the numbers of its state from index `i` on. Returns the index after them.
local function quota_decode(quota, list, i)
  local kind = quota.kind
  quota.since, quota.in_flight = list[i], list[i + 1]
  if kind == SLIDING then
    quota.charged, quota.head, quota.newest = list[i + 2], list[i + 3], list[i + 4]
    quota.began = quota.head * quota.slot
    return i + 5
  elseif kind == DRAINING then
    local at, slot = list[i + 3], quota.slot
    quota.charged, quota.at, quota.newest, quota.drain = list[i + 2], at, list[i + 4], list[i + 5]
    quota.before, quota.max_used, quota.excess = list[i + 6], list[i + 7], list[i + 8]
    quota.excess_rate, quota.ceiling = list[i + 9], list[i + 10]
    quota.head = (at - at % slot) / slot
    quota.began = quota.head * slot * quota.tick
    return i + 11
  elseif kind == FIXED then
    quota.charged, quota.window_end = list[i + 2], list[i + 3]
    return i + 4
  end
  return i + 2
end

-- Puts them there.
function changes.quota_encode(quota, list, i)
  local kind = quota.kind
  list[i], list[i + 1] = quota.since, quota.in_flight
  if kind == SLIDING then
    list[i + 2], list[i + 3], list[i + 4] = quota.charged, quota.head, quota.newest
  elseif kind == DRAINING then
    list[i + 2], list[i + 3] = quota.charged, quota.at
    list[i + 4], list[i + 5] = quota.newest, quota.drain
    list[i + 6], list[i + 7], list[i + 8] = quota.before, quota.max_used, quota.excess
    list[i + 9], list[i + 10] = quota.excess_rate, quota.ceiling
  elseif kind == FIXED then
    list[i + 2], list[i + 3] = quota.charged, quota.window_end
  end
end

local LOOK_AGAIN = 60000000

-- A quota that was not known: its state is all zeros so far.
local function quota_new(quota, now)
  quota.since = now
  if quota.kind == SLIDING then
    quota.head = (now - now % quota.slot) / quota.slot
    quota.began = quota.head * quota.slot
    rare.rings.ring_new(quota)
  elseif quota.kind == DRAINING then
    draining_renew(quota, quota, (now - now % quota.tick) / quota.tick)
  elseif quota.kind == FIXED then
    quota.window_end = quota.next
  end
  return quota
end

local function quota_abandon(quota, amount, now)
  quota.in_flight = drained(quota.in_flight, amount)
  if quota.holds and quota.kind ~= IN_FLIGHT then
    quota_pass(quota, now)
    quota_charge(quota, amount)
  end
  quota.taken = quota.holds and quota_held_and_charged(quota) or quota.charged
end

local function quota_outlives(quota, now, wall)
  local kind, lasts, charged = quota.kind, 0, quota.charged
  quota_pass(quota, now)
  if quota.cap and not rare.provider.cap_pass(quota.cap, 0, now) then quota.cap = false end
  charged = quota.charged
  if quota.in_flight > 0 then
    lasts = LOOK_AGAIN
  elseif kind == SLIDING and charged > 0 then
    lasts = product(quota.len, quota.slot)
  elseif kind == DRAINING and charged + quota.excess > 0 then
    lasts = rare.draining.draining_until_drained(quota, sum(charged, quota.excess), now)
  elseif kind == FIXED and charged > 0 then
    lasts = drained(quota.window_end, wall)
  end
  if quota.cap then lasts = max(lasts, rare.provider.cap_lasts(quota.cap, now)) end
  return lasts > 0 and sum(now, lasts) or nil
end
