-- The operations of one batch, one after the other, on states that have been brought to the present.
--
-- A batch: {field, now, wall, buckets, quotas, count, ahead, edited, reasons}. `field` is the lane's, `quotas` are those
-- of all buckets in a row, `ahead` says per quota what the reserves refused in this batch ask for (nil until one is,
-- and for a quota of which they need nothing), `reasons` are the numbers of the answer.

local GRANTED, FITS, REFUSED, REFUSED_BECAUSE, DONE, NO_CLAIM, STATUS = 1, 2, 3, 4, 5, 6, 7

-- Makes the edits of the settles so far count.
local function refold(batch)
  if not batch.edited then return end
  for _, quota in ipairs(batch.quotas) do
    if quota.edited then draining_refold(quota) end
  end
  batch.edited = false
end

local function is_paused(batch)
  for _, bucket in ipairs(batch.buckets) do
    if bucket.paused_until > batch.now then return true end
  end
  return false
end

-- What those before it ask of quota `k`, for a class of this capacity.
local function asked_ahead(batch, k, capacity)
  local ahead = batch.ahead and batch.ahead[k]
  return ahead and capacity <= ahead.capacity and ahead.amount or 0
end

-- Whether the costs, which follow index `at` of `ops`, fit.
local function fits(batch, ops, at, headroom)
  if is_paused(batch) then return false end
  for k, quota in ipairs(batch.quotas) do
    local cost = ops[at + k]
    local capacity = rule_capacity_for(quota.rule, cost, headroom)
    if not quota_fits(quota, cost, asked_ahead(batch, k, capacity), capacity) then return false end
  end
  return true
end

-- Appends how many violations there are and, for each, what refused (a rule's index, or -1 less a bucket's index
-- for a pause), the whole tokens available, the wait (-1 if not known), the wait at best and what is left of a wait that
-- nobody waits out.
local function violations(batch, ops, at, headroom)
  local reasons = batch.reasons
  local start, n = #reasons + 1, 0
  reasons[start] = 0
  local function add(by, available, wait, at_best, asked)
    local i = start + 5 * n
    reasons[i + 1], reasons[i + 2], reasons[i + 3], reasons[i + 4], reasons[i + 5] = by, available, wait, at_best, asked
    n = n + 1
  end
  for index, bucket in ipairs(batch.buckets) do
    local wait = bucket.paused_until - batch.now
    if wait > 0 then add(-index, 0, wait, wait, bucket_asked(bucket)) end
  end
  for k, quota in ipairs(batch.quotas) do
    local cost = ops[at + k]
    local capacity = rule_capacity_for(quota.rule, cost, headroom)
    local ahead = asked_ahead(batch, k, capacity)
    if not quota_fits(quota, cost, ahead, capacity) then
      local available, wait, at_best = quota_shortage(quota, cost, ahead, capacity, batch.now, batch.wall)
      add(k - 1, available, wait or -1, at_best, cap_asked(quota, cost, batch.now))
    end
  end
  reasons[start] = n
end

-- Lets a refused reserve keep its place before those after it in the batch.
local function stand_ahead(batch, ops, at, headroom)
  batch.ahead = batch.ahead or {}
  for k, quota in ipairs(batch.quotas) do
    local cost = ops[at + k]
    -- Who needs nothing of a quota stands before nobody there.
    if cost > 0 then
      local ahead = batch.ahead[k] or {amount = 0, capacity = 0}
      -- More than a few windows ahead makes no difference to an answer, and amounts stay exact.
      ahead.amount = math.min(sum(ahead.amount, cost), 4 * rule_capacity(quota.rule, 0))
      ahead.capacity = math.max(ahead.capacity, rule_capacity(quota.rule, headroom))
      batch.ahead[k] = ahead
    end
  end
end

-- Whether what holds back these costs is a pause that nobody waits out.
local function is_surfaced(batch, ops, at)
  for _, bucket in ipairs(batch.buckets) do
    if bucket_asked(bucket) > 0 then return true end
  end
  for k, quota in ipairs(batch.quotas) do
    if cap_asked(quota, ops[at + k], batch.now) > 0 then return true end
  end
  return false
end

local function refuse(batch, ops, at, headroom, mode, explain)
  -- What is not to wait has to know that, and stands in nobody's way.
  local goes_away = is_surfaced(batch, ops, at)
  local is_told = explain or goes_away or (mode == 'wait' and not batch.ahead)
  if is_told then violations(batch, ops, at, headroom) end
  if mode == 'wait' and not goes_away then stand_ahead(batch, ops, at, headroom) end
  return is_told and REFUSED_BECAUSE or REFUSED
end

local function reserve(batch, ops, at, headroom, mode, explain)
  refold(batch)
  if not fits(batch, ops, at, headroom) then return refuse(batch, ops, at, headroom, mode, explain) end
  if mode == 'dry' then return FITS end
  for k, quota in ipairs(batch.quotas) do
    local cost, shares, id = ops[at + k], quota.lane.shares, quota.id
    quota_reserve(quota, cost)
    shares[id] = math.min((shares[id] or 0) + cost, MAX_TAKEN)
  end
  return GRANTED
end

-- Settles on the actual amounts, which follow the reserved ones. `claim` is the field of a claim, or nil.
local function settle(batch, ops, at, granted_at, close, claim)
  for _, bucket in ipairs(batch.buckets) do
    if claim and not bucket_lane(bucket, claim) then return NO_CLAIM end
  end
  local count = batch.count
  for k, quota in ipairs(batch.quotas) do
    local lane, reserved, id = quota.lane, ops[at + k], quota.id
    if claim then lane = bucket_enter(quota.bucket, claim) end
    local share = lane.shares[id] or 0
    -- A late settle must not take what its lane has reserved since. A claim is younger than its grant.
    local stands = claim or granted_at >= lane.since
    local in_flight = stands and math.min(reserved, share) or 0
    local open = quota_settle(quota, granted_at, reserved, ops[at + count + k], in_flight, close)
    lane.shares[id] = math.min(share - in_flight + open, MAX_TAKEN)
  end
  batch.edited = true
  if claim and close then
    for _, bucket in ipairs(batch.buckets) do bucket_end_claim(bucket, claim) end
  end
  return DONE
end

local function detach(batch, ops, at, claim, lease)
  for k, quota in ipairs(batch.quotas) do
    local from, to, id = quota.lane.shares, bucket_enter(quota.bucket, claim).shares, quota.id
    local moved = math.min(ops[at + k], from[id] or 0)
    from[id] = (from[id] or 0) - moved
    to[id] = math.min((to[id] or 0) + moved, MAX_TAKEN)
  end
  local until_then = sum(batch.now, lease)
  for _, bucket in ipairs(batch.buckets) do
    bucket_extend(bucket, claim, until_then, until_then)
    bucket_keep_while_charged(bucket, bucket.rules, lease, batch.wall)
  end
  return DONE
end

local function pause(batch, duration)
  local bucket = batch.buckets[1]
  if duration == 0 then
    bucket_resume(bucket)
  else
    bucket.paused_until = math.max(bucket.paused_until, sum(batch.now, duration))
  end
  return DONE
end

-- The first bucket's quota of this id.
local function quota_of_first(batch, id)
  for index in ipairs(batch.buckets[1].rules) do
    if batch.quotas[index].id == id then return batch.quotas[index] end
  end
end

-- Pauses the first bucket's quota of this id; all of the bucket, if there is no id.
local function surface(batch, id, asked, lasts)
  local until_then, asked_until = sum(batch.now, lasts), sum(batch.now, asked)
  local quota = id and quota_of_first(batch, id)
  if quota then
    quota_surface(quota, until_then, asked_until, batch.now)
  elseif not id then
    bucket_surface(batch.buckets[1], until_then, asked_until)
  end
  return DONE
end

-- Withholds a part of the first bucket's quota of this id, or all of it, where `left` is nil.
local function cap(batch, id, left, at, lasts)
  refold(batch)
  local quota = quota_of_first(batch, id)
  if quota and left then
    quota_withhold(quota, left, at, lasts, batch.now, batch.wall)
  elseif quota then
    quota_pause(quota, sum(batch.now, lasts))
  end
  return DONE
end

-- Appends how many levels there are, then for each what is charged, what is in flight, the time until it is reset,
-- what is withheld, for how long, and what is left of a wait that nobody waits out, then the time until which the first
-- bucket is paused and the end of a wait that nobody waits out.
local function status(batch)
  refold(batch)
  local reasons = batch.reasons
  reasons[#reasons + 1] = batch.count
  for _, quota in ipairs(batch.quotas) do
    local n = #reasons
    reasons[n + 1], reasons[n + 2] = quota.charged, quota.in_flight
    reasons[n + 3] = quota_reset(quota, batch.now, batch.wall)
    reasons[n + 4], reasons[n + 5] = quota_withheld(quota), cap_lasts(quota, batch.now)
    reasons[n + 6] = cap_asked(quota, 1, batch.now)
  end
  local bucket, n = batch.buckets[1], #reasons
  local asked = bucket_asked(bucket)
  reasons[n + 1] = bucket.paused_until > batch.now and bucket.paused_until or 0
  reasons[n + 2] = asked > 0 and sum(batch.now, asked) or 0
  return STATUS
end

local MODES = {'wait', 'try', 'dry', 'wait', 'try', 'dry'}

-- Applies the operations from index `at` of `ops` on. Answers their verdicts, packed, and how many there are.
local function apply_operations(batch, ops, at)
  local count, codes, n = batch.count, {}, 0
  while ops[at] do
    local kind = ops[at]
    if kind <= 6 then
      local many, headroom = ops[at + 1], ops[at + 2]
      at = at + 3
      for _ = 1, many do
        n = n + 1
        codes[n] = reserve(batch, ops, at - 1, headroom, MODES[kind], kind > 3)
        at = at + count
      end
    elseif kind <= 8 then
      local many = ops[at + 1]
      at = at + 2
      for _ = 1, many do
        n = n + 1
        codes[n] = settle(batch, ops, at, ops[at], kind == 7)
        at = at + 1 + 2 * count
      end
    else
      n = n + 1
      if kind <= 10 then
        local claim = 'l' .. struct.pack('<d', ops[at + 2])
        codes[n] = settle(batch, ops, at + 2, ops[at + 1], kind == 9, claim)
        at = at + 3 + 2 * count
      elseif kind == 11 then
        local claim = 'l' .. struct.pack('<d', ops[at + 1])
        codes[n] = detach(batch, ops, at + 2, claim, ops[at + 2])
        at = at + 3 + count
      elseif kind == 12 then
        codes[n] = pause(batch, ops[at + 1])
        at = at + 2
      elseif kind == 14 then
        codes[n] = cap(batch, ops[at + 1], ops[at + 2], ops[at + 3], ops[at + 4])
        at = at + 5
      elseif kind == 15 then
        codes[n] = cap(batch, ops[at + 1], nil, 0, ops[at + 2])
        at = at + 3
      elseif kind == 16 then
        codes[n] = surface(batch, nil, ops[at + 1], ops[at + 2])
        at = at + 3
      elseif kind == 17 then
        codes[n] = surface(batch, ops[at + 1], ops[at + 2], ops[at + 3])
        at = at + 4
      else
        codes[n] = status(batch)
        at = at + 1
      end
    end
  end
  return string.char(unpack(codes)), n
end
