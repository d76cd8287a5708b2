-- A bucket that drains linearly, settled exactly: {rate, tick, units, burst, max_debt, slot, slots, at, charged, max_used,
-- excess, excess_rate, base, ring, edited}. What Rust calls `used` is `charged` here, as in every window: in units of it.

local function burst_units(shape)
  return product(shape.burst, shape.units)
end

local function draining_charge_units(bucket, charge, more)
  ring_add(bucket.ring, bucket.ring.head, charge)
  bucket.charged = math.min(bucket.charged + more, bucket.max_used)
end

local function draining_charge(bucket, amount)
  -- What a lane leaves behind may add up to more than is believed.
  local units = product(math.min(amount, bucket.burst + bucket.max_debt), bucket.units)
  draining_charge_units(bucket, units, units)
end

-- Answers how many units would have drained and were not in use.
local function draining_drain(bucket, ticks)
  local drain = product(bucket.rate, ticks)
  local unused = drained(drain, bucket.charged)
  if bucket.excess > 0 then
    bucket.excess = drained(drained(bucket.excess, product(bucket.excess_rate, ticks)), unused)
  end
  bucket.charged = drained(bucket.charged, drain)
  return unused
end

-- Lets time pass. Answers the same.
local function draining_advance(bucket, now)
  local at, unused = math.floor(now / bucket.tick), 0
  if at > bucket.at then
    unused = draining_drain(bucket, at - bucket.at)
    bucket.at = at
  end

  local left, emptied = ring_advance(bucket.ring, math.floor(bucket.at / bucket.slot))
  if left then
    local base, slot_drain, max_used = bucket.base, product(bucket.rate, bucket.slot), bucket.max_used
    for i = 1, #left do
      base = math.min(drained(base, slot_drain) + left[i], max_used)
    end
    bucket.base = drained(base, product(slot_drain, emptied))
  end
  return unused
end

-- Makes a bucket of the shape of `rule`.
local function draining_renew(bucket, rule, at)
  bucket.rate, bucket.tick, bucket.units = rule.limit, rule.tick, rule.units
  bucket.burst, bucket.max_debt = rule.burst, rule.max_debt
  bucket.slot, bucket.slots = rule.slot, rule.slots
  bucket.at, bucket.charged, bucket.base, bucket.edited = at, 0, 0, false
  bucket.max_used = product(sum(rule.burst, rule.max_debt), rule.units)
  bucket.excess, bucket.excess_rate = 0, 0
  bucket.ring = ring_new(rule.id, math.floor(at / rule.slot), rule.slots)
end

-- Takes over a changed rate or burst: past use has drained at the old rate up to now and is no new debt, and the ring is
-- closed, since its folds would drain the past at the new rate. Answers whether it changed.
local function draining_adopt(bucket, rule)
  if bucket.rate == rule.limit and bucket.tick == rule.tick and bucket.units == rule.units
    and bucket.burst == rule.burst and bucket.max_debt == rule.max_debt
    and bucket.slot == rule.slot and bucket.slots == rule.slots then
    return false
  end
  local old_units = bucket.units
  local function rescale(used) return rescaled(used, old_units, rule.units) end
  -- A debt is kept whole, with room above it for what a demand adds.
  local debt = drained(bucket.charged, burst_units(bucket))
  local allowed = burst_units(rule) + math.min(rescale(debt), drained(MAX_AMOUNT, 8 * burst_units(rule)))
  -- A longer tick is taken over from its beginning, so that no time is lost or counted twice.
  local at = math.floor(bucket.at * bucket.tick / rule.tick)
  local undrained = product(bucket.rate, bucket.at - math.floor(at * rule.tick / bucket.tick))
  local total = rescale(sum(sum(bucket.charged, bucket.excess), undrained))
  local fastest = bucket.excess > 0 and bucket.rate + bucket.excess_rate or bucket.rate
  draining_renew(bucket, rule, at)
  bucket.charged = math.min(total, allowed)
  bucket.max_used = math.max(bucket.max_used, bucket.charged)
  bucket.excess = total - bucket.charged
  bucket.excess_rate = drained(fastest, rule.limit)
  draining_charge_units(bucket, bucket.charged, 0)
  return true
end

-- Replaces what was charged at `at`. What is older than the ring gets no refund; its debit is paid now.
local function draining_amend(bucket, at, reserved, actual, refundable)
  local ring, slot = bucket.ring, math.floor(math.floor(at / bucket.tick) / bucket.slot)
  if slot > ring.head then slot = ring.head end
  local known = refundable and ring_holds(ring, slot)
  if actual >= reserved then
    local units = product(actual - reserved, bucket.units)
    ring_add(ring, known and slot or ring.head, units)
    bucket.charged = math.min(bucket.charged + units, bucket.max_used)
  elseif known then
    ring_take(ring, slot, product(reserved - actual, bucket.units))
  end
  bucket.edited = true
end

local function draining_fold(bucket)
  local ring, used = bucket.ring, bucket.base
  local slots, head, len = decode_slots(ring), ring.head, ring.len
  local slot_drain, max_used = product(bucket.rate, bucket.slot), bucket.max_used
  for slot = head - len + 1, head do
    if slot == head then slot_drain = product(bucket.rate, bucket.at - head * bucket.slot) end
    used = used > slot_drain and used - slot_drain or 0
    used = used + slots[slot % len + 1]
    if used > max_used then used = max_used end
  end
  return used
end

-- Lowers `charged` to what the edited ring says: one fold, however many settles came before it.
local function draining_refold(bucket)
  if bucket.edited and bucket.charged > 0 then
    bucket.charged = math.min(bucket.charged, draining_fold(bucket))
  end
  bucket.edited = false
end

-- Time until `units` have drained.
local function draining_until_drained(bucket, units, now)
  local ticks = math.ceil(units / math.max(bucket.rate, 1))
  return drained(product(bucket.at + ticks, bucket.tick), now)
end
