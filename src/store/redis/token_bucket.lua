-- A bucket that drains linearly, settled exactly: {rate, tick, units, burst, max_debt, slot, slots, at, charged, base,
-- ring, edited}. What Rust calls `used` is `charged` here, as in every window: in units of it.

local function burst_units(shape)
  return product(shape.burst, shape.units)
end

local function max_used(shape)
  return product(sum(shape.burst, shape.max_debt), shape.units)
end

-- What is left of `used` after `drain`.
local function drained(used, drain)
  return used > drain and used - drain or 0
end

local function draining_charge_units(bucket, charge, more)
  ring_add(bucket.ring, bucket.ring.head, charge)
  bucket.charged = math.min(bucket.charged + more, max_used(bucket))
end

local function draining_charge(bucket, amount)
  local units = product(amount, bucket.units)
  draining_charge_units(bucket, units, units)
end

local function draining_advance(bucket, now)
  local at = math.floor(now / bucket.tick)
  if at > bucket.at then
    bucket.charged = drained(bucket.charged, product(bucket.rate, at - bucket.at))
    bucket.at = at
  end

  local left, emptied = ring_advance(bucket.ring, math.floor(bucket.at / bucket.slot))
  if left then
    local base, slot_drain, max_used = bucket.base, product(bucket.rate, bucket.slot), max_used(bucket)
    for i = 1, #left do
      base = math.min(drained(base, slot_drain) + left[i], max_used)
    end
    bucket.base = drained(base, product(slot_drain, emptied))
  end
end

-- Makes a bucket of the shape of `rule`.
local function draining_renew(bucket, rule, now)
  bucket.rate, bucket.tick, bucket.units = rule.limit, rule.tick, rule.units
  bucket.burst, bucket.max_debt = rule.burst, rule.max_debt
  bucket.slot, bucket.slots = rule.slot, rule.slots
  bucket.at, bucket.charged, bucket.base, bucket.edited = math.floor(now / rule.tick), 0, 0, false
  bucket.ring = ring_new(math.floor(bucket.at / rule.slot), rule.slots)
end

-- Takes over a changed rate or burst: past use drains at the old rate up to now and is no new debt, and the ring is
-- closed, since its folds would drain the past at the new rate. Answers whether it changed.
local function draining_adopt(bucket, rule, now)
  if bucket.rate == rule.limit and bucket.tick == rule.tick and bucket.units == rule.units
    and bucket.burst == rule.burst and bucket.max_debt == rule.max_debt
    and bucket.slot == rule.slot and bucket.slots == rule.slots then
    return false
  end
  local old_units = bucket.units
  local function rescale(used)
    if rule.units >= old_units then return product(used, math.floor(rule.units / old_units)) end
    return math.ceil(used / math.floor(old_units / rule.units))
  end
  local debt = drained(bucket.charged, burst_units(bucket))
  local allowed = math.min(sum(burst_units(rule), rescale(debt)), max_used(rule))
  local used = math.min(rescale(bucket.charged), allowed)
  draining_renew(bucket, rule, now)
  bucket.charged = used
  draining_charge_units(bucket, used, 0)
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
    bucket.charged = math.min(bucket.charged + units, max_used(bucket))
  elseif known then
    ring_take(ring, slot, product(reserved - actual, bucket.units))
  end
  bucket.edited = true
end

local function draining_fold(bucket)
  local ring, used = bucket.ring, bucket.base
  local slots, head, len = decode_slots(ring), ring.head, ring.len
  local slot_drain, max_used = product(bucket.rate, bucket.slot), max_used(bucket)
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
  return math.max(product(bucket.at + ticks, bucket.tick) - now, 0)
end
