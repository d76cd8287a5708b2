-- The operations of one batch, one after the other, on states that have been brought to the
-- present.
--
-- Verdicts are numbers: 1 granted, 2 granted as a probe, 3 fits, 4 done, 5 no claim, each followed
-- by how many there are in a row; or one verdict of:
--   6  refused: how many violations, and for each what refused (a rule's index among those of the
--      operation, or -1 less the index of its bucket for a pause), the whole tokens available, the
--      wait (-1 if not known), the wait at best, what is left of a wait that was asked for (-1 if
--      none), whether it holds, its rank, how many go before it; then the tag and the part of its
--      flow;
--   7  status: how many levels, those (see quota_append_level), until when the bucket is paused,
--      the end of a wait that was asked for, how many demands of other sessions wait, how many were
--      granted, how many looks were refused.

local GRANTED = 1
local PROBE = 2
local FITS = 3
local DONE = 4
local NO_CLAIM = 5
local REFUSED = 6
local STATUS = 7

-- Kinds of operations.
local CHARGE = 0
local WAIT = 1
local DRY = 3
local CLOSE = 4
local ADJUST = 5
local DETACH = 8
local WAITING = 9

local buckets, wall, verdicts = {}, nil, {}

local edited = false

local function answer(verdict, many)
  local n = #verdicts
  verdicts[n + 1] = verdict
  verdicts[n + 2] = many
end

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

-- Reserves on the same buckets, at index `at` of the message; `turn` is what they are measured by,
-- if the operations take turns.
local function reserves(mode, at, many, of, count, headroom, flow, weight, turn)
  local quotas, space, granted, is_plain = of.quotas, of[#of], 0, are_plain(of)
  if edited then refold() end
  local is_free = mode == CHARGE
  local asks = is_plain and not is_free and mode ~= DRY
  local asked = asks and quotas_fit(quotas, at, many, count, headroom)
  if asked then
    for b = 1, #of do
      local bucket = of[b]
      if not bucket.own then rare.changes.bucket_enter(bucket) end
      bucket.granted = bucket.granted + many
    end
    for k = 1, count do quota_reserve(quotas[k], asked[k]) end
    return answer(GRANTED, many)
  end
  -- One after the other: each has its age at index `first`, its costs behind, and its patience.
  local width, demand = count + 3, nil
  at = rare.rows.singly(at, many, width)
  for first = at + 2 * width + 1, at + 3 * width * many, 3 * width do
    if edited then refold() end
    local fits = is_free
      or is_plain and quotas_fit(quotas, first - 1 - 2 * width, 1, count, headroom)
    if not fits then
      demand = demand or rare.waiting.demand_of(mode, of, count, headroom, flow, weight)
      fits = rare.waiting.demand_fits(demand, first, turn)
    end
    if fits and mode ~= DRY then
      local is_probe = false
      for b = 1, #of do
        if not of[b].own then rare.changes.bucket_enter(of[b]) end
        of[b].granted = of[b].granted + 1
        local gate = not is_free and of[b].gate
        if gate and rare.provider.gate_grant(gate, of[b].now) then is_probe = true end
      end
      for k = 1, count do
        local quota, cost = quotas[k], message[first + k]
        quota_reserve(quota, cost)
        local cap = not is_free and cost > 0 and quota.cap
        if cap and rare.provider.gate_grant(cap, quota.bucket.now) then is_probe = true end
      end
      if space.flow_count > 0 and not is_free then rare.waiting.demand_serve(demand) end
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
      for b = 1, mode ~= DRY and #of or 0 do of[b].refused = of[b].refused + 1 end
      is_plain = is_plain and are_plain(of)
    end
  end
  if granted > 0 then answer(GRANTED, granted) end
end

-- Settles of the session on the same buckets: all of them on one quota after the other.
local function settles(at, many, of, count, close)
  local reserved = at + 2 * #of
  for b = 1, #of do
    local bucket, first = of[b], message[at]
    local oldest, latest = message[first], message[first]
    local own, quotas = bucket.own or rare.changes.bucket_enter(bucket), bucket.quotas
    for i = first, first + message[at + 1] * (many - 1) do
      if message[i] < oldest then oldest = message[i] end
      if message[i] > latest then latest = message[i] end
    end
    if close and bucket.heads then
      rare.waiting.calls_end(bucket, first, first + message[at + 1] * (many - 1))
    end
    for k = 1, bucket.count do
      local actual = reserved + 2 * count
      quota_settle(quotas[k], many, at, reserved, actual, oldest, latest, own.since, close)
      reserved = reserved + 2
    end
    at = at + 2
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
    rare.changes.perform_of_claim(kind, at, of, count, x, y)
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
      local many, n, of, count = message[at + 1], message[at + 6], {}, 0
      local x, y, z, size = message[at + 2], message[at + 3], message[at + 4], message[at + 5]
      at = at + 6
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
      at = at + size
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
  verdicts[n + 3] = waiting_in(bucket, session)
  verdicts[n + 4], verdicts[n + 5] = bucket.granted, bucket.refused
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
      {at = message[at + 2], asked = message[at + 3], lasts = message[at + 4],
       longest = message[at + 5]}
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
      if quota then
        quota_withhold(quota, message[at + 1], message[at + 2], message[at + 3], now, wall)
      end
    else
      return status(bucket)
    end
  end
  answer(DONE, 1)
end

-- RARE changes

-- Settles a claim, or detaches: see arguments.lua.
function changes.perform_of_claim(kind, at, of, count, claim, lease)
  if kind == DETACH then
    for _, bucket in ipairs(of) do
      local record = changes.bucket_record(bucket, claim)
      local is_session = record and not changes.record_is_claim(record)
      if claim == session or is_session then return answer(NO_CLAIM, 1) end
    end
    for _, bucket in ipairs(of) do
      bucket_detach(bucket, claim, message, at - 1, lease, wall)
      at = at + bucket.count
    end
    return answer(DONE, 1)
  end
  local first = at
  for _, bucket in ipairs(of) do
    local record = changes.bucket_record(bucket, claim)
    if not record or not changes.record_is_claim(record) then
      return answer(NO_CLAIM, 1)
    end
  end
  edited = true
  local reserved = first + 2 * #of
  for b, bucket in ipairs(of) do
    local shares = changes.bucket_record(bucket, claim).shares
    local granted = first + 2 * b - 2
    for k = 1, bucket.count do
      local quota = bucket.quotas[k]
      local own_share, share = quota.share, shares[quota.id] or 0
      local at = message[reserved]
      -- A claim is younger than its grant, and settles no more than it holds.
      message[at], quota.share = min(message[at], share), share
      quota_settle(quota, 1, granted, reserved, reserved + 2 * count, 0, 0, 0, kind == 6)
      reserved = reserved + 2
      quota.share, shares[quota.id] = own_share, quota.share
    end
    if kind == 6 then bucket_end_claim(bucket, claim) end
  end
  answer(DONE, 1)
end
