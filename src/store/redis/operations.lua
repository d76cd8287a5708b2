-- The operations of one batch, one after the other, on states that have been brought to the
-- present.
--
-- Verdicts are numbers: 1 granted, 2 granted as a probe, 3 fits, 4 done, 5 no claim, each followed
-- by how many there are in a row; or one verdict of:
--   6  refused: how many violations, and for each what refused (a rule's index among those of the operation, or
--      -1 less the index of its bucket for a pause), the whole tokens available, the wait (-1 if not
--      known), the wait at best, what is left of a wait that was asked for (-1 if none), whether it holds,
--      its rank, how many go before it; then the tag and the part of its flow;
--   7  status: how many levels, those (see quota_append_level), until when the bucket is paused, the end of a
--      wait that was asked for, how many wait.

local GRANTED = 1
local PROBE = 2
local FITS = 3
local DONE = 4
local NO_CLAIM = 5
local REFUSED = 6
local STATUS = 7

-- Kinds of operations.
local WAIT = 1
local DRY = 3
local CLOSE = 4
local ADJUST = 5
local DETACH = 8
local WAITING = 9

local message, buckets, wall, verdicts = nil, {}, nil, {}

-- Settles were made since the last refold.
local edited = false

local function answer(verdict, many)
  local n = #verdicts
  verdicts[n + 1] = verdict
  verdicts[n + 2] = many
end

-- Makes the edits of the settles so far count.
local function refold()
  edited = false
  for b = 1, #buckets do
    local bucket = buckets[b]
    local quotas = bucket.quotas
    for k = 1, bucket.count do
      local quota = quotas[k]
      if quota.edited then
        rare.draining.draining_refold(quota)
        quota.taken = quota.charged
      end
    end
  end
end

-- Whether nothing goes before a demand on these buckets, and nothing but its quotas holds it back.
local function are_plain(of)
  for b = 1, #of do
    if not of[b].is_plain then return false end
  end
  return not is_any_ahead and of[#of].flow_count == 0
end

-- Reserves on the same buckets. The first one is at index `at` of the message; `turn` is what it is
-- measured by, if the operations take turns.
local function reserves(mode, at, many, of, count, headroom, flow, weight, turn)
  local quotas, space, granted, is_plain, demand = of.quotas, of[#of], 0, are_plain(of), nil
  for first = at + 1, at + 1 + (many - 1) * (count + 2), count + 2 do
    if edited then refold() end
    local fits = is_plain
    if is_plain then
      for k = 1, count do
        local quota, cost = quotas[k], message[first + k]
        local room = quota.room
        if headroom > 0 and cost > 0 then
          room = product(rare.classes.less_headroom(quota.whole, headroom), quota.units)
        end
        if quota.taken + cost * quota.units > room then
          fits = false
          break
        end
      end
    end
    if not fits then
      demand = demand or rare.waiting.demand_of(mode, of, count, headroom, flow, weight)
      fits = rare.waiting.demand_fits(demand, first, turn)
    end
    if fits and mode ~= DRY then
      local is_probe = false
      for b = 1, #of do
        if not of[b].own then rare.changes.bucket_enter(of[b]) end
        if of[b].gate and rare.provider.gate_grant(of[b].gate, of[b].now) then is_probe = true end
      end
      for k = 1, count do
        local quota, cost = quotas[k], message[first + k]
        quota_reserve(quota, cost)
        if quota.cap and cost > 0 and rare.provider.gate_grant(quota.cap, quota.bucket.now) then is_probe = true end
      end
      if space.flow_count > 0 then rare.waiting.demand_serve(demand) end
      if is_probe then
        if granted > 0 then answer(GRANTED, granted) end
        answer(PROBE, 1)
        granted = 0
      else
        granted = granted + 1
      end
    else
      if granted > 0 then answer(GRANTED, granted) end
      granted = 0
      if fits then answer(FITS, 1) else rare.waiting.refuse(demand) end
      is_plain = is_plain and are_plain(of)
    end
  end
  if granted > 0 then answer(GRANTED, granted) end
end

-- Settles of the session on the same buckets.
local function settles(at, many, of, count, close)
  local n = #of
  for b = 1, n do
    if not of[b].own then rare.changes.bucket_enter(of[b]) end
  end
  for first = at, at + (many - 1) * (n + 2 * count), n + 2 * count do
    local i = first + n
    for b = 1, n do
      local bucket, granted_at = of[b], message[first + b - 1]
      -- A late settle must not take what its session has reserved since.
      local stands, quotas = granted_at >= bucket.own.since, bucket.quotas
      for k = 1, bucket.count do
        local quota, reserved = quotas[k], message[i]
        local share = quota.share
        local in_flight = stands and (reserved < share and reserved or share) or 0
        local open = quota_settle(quota, granted_at, reserved, message[i + count], in_flight, close)
        share = share - in_flight + open
        quota.share = share < MAX_TAKEN and share or MAX_TAKEN
        i = i + 1
      end
    end
  end
  edited = true
  answer(DONE, many)
end

-- Operations of one kind that follow each other: see arguments.lua.
local function perform(kind, at, many, of, count, x, y, z, turn)
  if kind <= DRY then
    reserves(kind, at, many, of, count, x, y, z, turn)
  elseif kind <= ADJUST then
    settles(at, many, of, count, kind == CLOSE)
  elseif kind <= DETACH then
    for _ = 1, many do at = rare.changes.perform_of_claim(kind, at, of, count, x, y) end
  elseif kind == WAITING then
    rare.waiting.wait(of, at)
  else
    rare.provider.perform_of_provider(kind, at, of)
  end
end

-- How many numbers operations have that are about one bucket.
local SIZE_OF_KIND = {[10] = 3, [11] = 8, [12] = 3, [13] = 6, [14] = 2}

-- Calls `perform` for the operations in the message from index `at` on.
local function each_run(at, last, perform)
  while at <= last do
    local kind = message[at]
    if kind <= DETACH then
      local many, n, of, count = message[at + 1], message[at + 5], {}, 0
      local x, y, z = message[at + 2], message[at + 3], message[at + 4]
      at = at + 5
      for b = 1, n do
        of[b] = buckets[message[at + b] + 1]
        count = count + of[b].count
      end
      at = at + n + 1
      -- The quotas of these buckets, in a row.
      of.quotas = of[1].quotas
      if n > 1 then
        local quotas, k = {}, 0
        for b = 1, n do
          for rule = 1, of[b].count do
            k = k + 1
            quotas[k] = of[b].quotas[rule]
          end
        end
        of.quotas = quotas
      end
      perform(kind, at, many, of, count, x, y, z)
      local size = kind <= DRY and count + 2 or kind < DETACH and n + 2 * count or count
      at = at + many * size
    else
      perform(kind, at + 2, 1, buckets[message[at + 1] + 1], 0)
      at = at + (SIZE_OF_KIND[kind] or 3 + 11 * message[at + 2])
    end
  end
end

-- RARE provider

local function status(bucket)
  local now, asked = bucket.now, bucket.gate and provider.gate_asked(bucket.gate, bucket.now)
  verdicts[#verdicts + 1] = STATUS
  verdicts[#verdicts + 1] = bucket.count
  for k = 1, bucket.count do quota_append_level(bucket.quotas[k], verdicts, now, wall) end
  local n = #verdicts
  verdicts[n + 1] = bucket.gate and gate_paused_until(bucket.gate, now) or 0
  verdicts[n + 2] = asked and sum(now, asked) or 0
  verdicts[n + 3] = waiting_in(bucket)
end

-- An operation that is about one bucket: see arguments.lua.
function provider.perform_of_provider(kind, at, bucket)
  local now = bucket.now
  local function quota_of(id)
    for k = 1, bucket.count do
      if bucket.quotas[k].id == id then return bucket.quotas[k] end
    end
  end
  bucket.is_plain, bucket.rare, bucket.has_gates = false, true, true
  if kind == 10 then
    if message[at] == 0 then
      bucket_resume(bucket)
    else
      local gate = bucket_gate(bucket)
      gate.until_then = max(gate.until_then, sum(now, message[at]))
    end
  elseif kind == 11 then
    local refusal =
      {at = message[at + 2], asked = message[at + 3], lasts = message[at + 4], longest = message[at + 5]}
    -- What waits is to be refused at once.
    if refusal.asked > refusal.lasts then bucket.is_stirred = true end
    if message[at] == 0 then
      gate_refuse(bucket_gate(bucket), refusal, now)
    else
      local quota = quota_of(message[at + 1])
      if quota then quota_refuse(quota, refusal, now) end
    end
  elseif kind == 12 then
    if bucket_answered_well(bucket, message[at]) then bucket.is_stirred = true end
  else
    if edited then refold() end
    if kind == 13 then
      local quota = quota_of(message[at])
      if quota then quota_withhold(quota, message[at + 1], message[at + 2], message[at + 3], now, wall) end
    else
      return status(bucket)
    end
  end
  answer(DONE, 1)
end

-- RARE changes

-- Settles a claim, or detaches: see arguments.lua. Returns the index after it.
function changes.perform_of_claim(kind, at, of, count, claim, lease)
  local first = at
  if kind == DETACH then
    for _, bucket in ipairs(claim ~= session and of or {}) do
      bucket_detach(bucket, claim, message, at - 1, lease, wall)
      at = at + bucket.count
    end
    answer(claim ~= session and DONE or NO_CLAIM, 1)
    return first + count
  end
  at = at + #of
  for _, bucket in ipairs(of) do
    local record = changes.bucket_record(bucket, claim)
    if not record or not changes.record_is_claim(record) then
      answer(NO_CLAIM, 1)
      return at + 2 * count
    end
  end
  edited = true
  for b, bucket in ipairs(of) do
    local shares = changes.bucket_record(bucket, claim).shares
    for k = 1, bucket.count do
      local quota, reserved, actual = bucket.quotas[k], message[at], message[at + count]
      local share = shares[quota.id] or 0
      -- A claim is younger than its grant, and settles no more than it holds.
      local in_flight = min(reserved, share)
      local open = quota_settle(quota, message[first + b - 1], in_flight, actual, in_flight, kind == 6)
      shares[quota.id] = min(share - in_flight + open, MAX_TAKEN)
      at = at + 1
    end
    if kind == 6 then bucket_end_claim(bucket, claim) end
  end
  answer(DONE, 1)
  return at + count
end
