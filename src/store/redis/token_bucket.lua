-- A bucket that drains linearly, settled exactly: {rate, tick, units, whole, max_debt, slot, len,
-- at, charged, max_used, excess, excess_rate, ceiling, head, began, newest, drain, before, ring,
-- edited, earliest}. What Rust calls `used` is `charged` here, as in every window. `newest` and
-- `drain` are what was charged and what drained in the newest slot, which `began` then; `before` is
-- the fold before it.
--
-- Each slot of the ring also has the fold at its end, so that a fold begins at the earliest slot
-- that was edited. The index of the newest slot has that of the slot which has just left: Rust's
-- `base`.

-- RARE draining

-- Lets ticks pass within the newest slot. Returns how many units would have drained and were not in
-- use.
local function draining_drain(bucket, ticks)
  local drain, used, excess = product(bucket.rate, ticks), bucket.charged, bucket.excess
  local unused, all = drained(drain, used), drain
  if excess > 0 then
    local of_excess = product(bucket.excess_rate, ticks)
    all = sum(drain, of_excess < excess and of_excess or excess)
    bucket.excess = drained(drained(excess, of_excess), unused)
  end
  bucket.drain, bucket.charged = sum(bucket.drain, all), drained(used, drain)
  bucket.at = bucket.at + ticks
  return unused
end
draining.draining_drain = draining_drain

-- Lets time pass up to a later tick. Returns the same.
function draining.draining_advance(bucket, target)
  if target < (bucket.head + 1) * bucket.slot then
    return draining_drain(bucket, target - bucket.at)
  end
  return rare.rings.draining_advance_slots(bucket, target)
end

function draining.draining_charge(bucket, amount)
  local most = bucket.whole + bucket.max_debt
  local units = product(amount < most and amount or most, bucket.units)
  bucket.newest = sum(bucket.newest, units)
  bucket.charged = min(bucket.charged + units, bucket.max_used)
end

-- Replaces what was charged to the settles of a run: see quota_state.lua.
function draining.draining_amend(bucket, many, at, reserved, actual)
  local began, since, units, slots = bucket.began, bucket.since, bucket.units, nil
  local used, max_used, newest = bucket.charged, bucket.max_used, bucket.newest
  local i, r, a = message[at], message[reserved], message[actual]
  local i_step, r_step, a_step = message[at + 1], message[reserved + 1], message[actual + 1]
  bucket.edited = true
  if r_step + a_step == 0 and message[r] == message[a] then return end
  for _ = 1, many do
    local granted_at, more = message[i], message[a] - message[r]
    i, r, a = i + i_step, r + r_step, a + a_step
    if more ~= 0 then
      local charge, index, is_known = newest, nil, granted_at >= since
      if granted_at < began then
        local slot = floor(floor(granted_at / bucket.tick) / bucket.slot)
        is_known = is_known and bucket.head - slot < bucket.len
        if is_known then
          slots = slots or rare.rings.ring_of(bucket).slots
          index = slot % bucket.len + 1
          charge = slots[index] or rare.rings.ring_decode(bucket, bucket.ring, index)
          if not bucket.earliest or slot < bucket.earliest then bucket.earliest = slot end
        end
      end
      if more > 0 then
        local debit = product(more, units)
        charge, used = sum(charge, debit), used + debit
        if used > max_used then used = max_used end
      elseif is_known then
        charge = drained(charge, product(-more, units))
      end
      if index then slots[index] = charge else newest = charge end
    end
  end
  bucket.charged, bucket.newest = used, newest
end

local function draining_fold(bucket)
  local folded = drained(bucket.before, bucket.drain) + bucket.newest
  return folded < bucket.ceiling and folded or bucket.ceiling
end
draining.draining_fold = draining_fold

function draining.draining_refold(bucket)
  if bucket.earliest then rare.rings.draining_fold_from(bucket, bucket.earliest) end
  bucket.edited, bucket.earliest = false, nil
  if bucket.charged + bucket.excess == 0 then return end
  local folded = draining_fold(bucket)
  if folded < bucket.charged then bucket.charged = folded end
  if folded - bucket.charged < bucket.excess then bucket.excess = folded - bucket.charged end
end

function draining.draining_until_drained(bucket, units, now)
  local rate = bucket.rate
  local ticks = math.ceil(units / (rate > 1 and rate or 1))
  return drained(product(bucket.at + ticks, bucket.tick), now)
end

-- RARE rings

local function draining_skip(bucket, target)
  local slot, len = bucket.slot, bucket.len
  local last = (target - target % slot) / slot
  local first = drained(last, len)
  if first <= bucket.head then return 0 end
  local folded = rare.draining.draining_fold(bucket)
  bucket.drain = 0
  local unused = rare.draining.draining_drain(bucket, first * slot - bucket.at)
  folded = drained(folded, bucket.drain)
  bucket.head, bucket.newest, bucket.drain, bucket.before = first, 0, 0, folded
  rings.ring_new(bucket, true)
  local ring, drain = bucket.ring, 0
  if bucket.charged + bucket.excess + folded == 0 then
    -- All slots in between drain alike, and are empty.
    unused = sum(unused, product(bucket.rate, (last - first) * slot))
    drain = product(bucket.rate, slot)
    bucket.head, bucket.at = last, last * slot
  end
  ring.packed = string.rep(struct.pack('<ddd', 0, drain, folded), len)
  return unused
end

-- Lets time pass up to a tick in a later slot. Returns the same as a drain.
function rings.draining_advance_slots(bucket, target)
  local slot, len = bucket.slot, bucket.len
  local unused = draining_skip(bucket, target)
  while true do
    local next = (bucket.head + 1) * slot
    unused = sum(unused, rare.draining.draining_drain(bucket, min(target, next) - bucket.at))
    if target < next then break end
    local folded = rare.draining.draining_fold(bucket)
    ring_write(ring_of(bucket), bucket.head % len + 1, bucket.newest, bucket.drain, folded)
    bucket.head, bucket.newest, bucket.drain, bucket.before = bucket.head + 1, 0, 0, folded
  end
  bucket.began = bucket.head * slot * bucket.tick
  return unused
end

-- The folds from a slot on, which was edited.
function rings.draining_fold_from(bucket, slot)
  local ring, len, ceiling = ring_of(bucket), bucket.len, bucket.ceiling
  local slots, drains, folds = ring.slots, ring.drains, ring.folds
  local index = (slot - 1) % len + 1
  if not slots[index] then ring_decode(bucket, ring, index) end
  local fold = folds[index]
  for slot = slot, bucket.head - 1 do
    index = slot % len + 1
    local charge = slots[index] or ring_decode(bucket, ring, index)
    fold = min(drained(fold, drains[index]) + charge, ceiling)
    folds[index] = fold
  end
  bucket.before = fold
end

-- RARE waiting

local function draining_horizon(bucket)
  return product(ceil(product(bucket.whole, bucket.units) / max(bucket.rate, 1)), bucket.tick)
end

-- RARE changes

-- Makes an empty bucket of the shape of `rule`, at a tick.
local function draining_renew(bucket, rule, at)
  for _, name in ipairs({'tick', 'units', 'slot', 'len'}) do bucket[name] = rule[name] end
  bucket.at, bucket.newest, bucket.drain, bucket.before = at, 0, 0, 0
  bucket.head = (at - at % rule.slot) / rule.slot
  bucket.began = bucket.head * rule.slot * rule.tick
  bucket.ceiling = product(sum(rule.whole, rule.max_debt), rule.units)
  bucket.max_used, bucket.charged, bucket.excess, bucket.excess_rate = bucket.ceiling, 0, 0, 0
  rare.rings.ring_new(bucket, bucket ~= rule)
end

local function rescaled(amount, from, to)
  if to >= from then return product(amount, ceil(to / from)) end
  return ceil(amount / floor(from / to))
end

local function draining_adopt(bucket, rule)
  local is_laid_out_anew = bucket.tick ~= rule.tick or bucket.units ~= rule.units
    or bucket.slot ~= rule.slot or bucket.len ~= rule.len
  if not is_laid_out_anew and bucket.rate == rule.rate and bucket.whole == rule.whole
    and bucket.max_debt == rule.max_debt then
    return false
  end
  local units, tick = bucket.units, bucket.tick
  local burst = product(rule.whole, rule.units)
  local debt = rescaled(drained(bucket.charged, product(bucket.whole, units)), units, rule.units)
  local allowed = burst + min(debt, drained(MAX_AMOUNT, 8 * burst))
  local total, ceiling = sum(bucket.charged, bucket.excess), bucket.ceiling
  local fastest = bucket.excess > 0 and bucket.rate + bucket.excess_rate or bucket.rate
  if is_laid_out_anew then
    local at = floor(bucket.at * tick / rule.tick)
    local undrained = product(fastest, bucket.at - floor(at * rule.tick / tick))
    total = rescaled(sum(total, undrained), units, rule.units)
    draining_renew(bucket, rule, at)
    bucket.newest, ceiling = total, bucket.ceiling
  end
  local max_used = product(sum(rule.whole, rule.max_debt), rule.units)
  bucket.rate, bucket.whole, bucket.max_debt = rule.rate, rule.whole, rule.max_debt
  bucket.charged = min(total, allowed)
  bucket.max_used = max(max_used, bucket.charged)
  bucket.ceiling = max(ceiling, sum(max_used, total))
  bucket.excess = total - bucket.charged
  bucket.excess_rate = drained(fastest, rule.rate)
  if bucket.ceiling > ceiling and not is_laid_out_anew then
    rare.rings.draining_fold_from(bucket, bucket.head - bucket.len + 1)
  end
  return is_laid_out_anew
end
