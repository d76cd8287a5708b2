-- The state of one bucket: its quotas, its clock, and what each lane has in flight in it. In Redis a hash of these fields:
--   "s"  numbers that change all the time: digest, born, now, offset, withheld_until, expires, next_sweep, kept_until, then
--        those of the quotas (see quota_state.lua). Until `withheld_until` the bucket is paused or something of a quota is
--        withheld; where it is not 0, paused_until, surfaced_until, asked_until and the caps of the quotas follow. The digest is that of the rules which were obeyed last, in
--        the order of the quotas; `kept_until` is when the server forgets the key.
--   "q"  VERSION and the shapes of the quotas.
--   "r" and a packed id: the ring of a quota.
--   "l" and a packed id: a lane or claim: digest, seq, answered_at, lease_until, forget_at, since, the number of
--        shares, the shares (a quota's id and an amount each), then the answer to its last batch. What was granted
--        before `since` is not in the shares: the lane was not known yet, or its lease had ended.

local VERSION = 1

-- How long a lane is remembered after its last batch.
local LANE_MEMORY = 600000000

local function lane_new(now)
  return {seq = 0, answered_at = 0, lease_until = 0, forget_at = 0, since = now, shares = {}, answer = ''}
end

local function lane_decoded(record)
  local lane, count, from = {shares = {}}
  local _
  _, lane.seq, lane.answered_at, lane.lease_until, lane.forget_at, lane.since, count, from =
    struct.unpack('<ddddddd', record)
  local shares = numbers(record, from, 2 * count)
  for i = 1, 2 * count, 2 do lane.shares[shares[i]] = shares[i + 1] end
  lane.answer = string.sub(record, from + 16 * count)
  return lane
end

-- The shares of the first `known` of the quotas come first and in their order, those on others after them.
local function lane_encoded(lane, digest, quotas, known)
  local list, n = {digest, lane.seq, lane.answered_at, lane.lease_until, lane.forget_at, lane.since, 0}, 7
  local rest = {}
  for id, amount in pairs(lane.shares) do
    if amount > 0 then rest[id] = amount end
  end
  for index = 1, known do
    local id = quotas[index].id
    list[n + 1], list[n + 2], rest[id] = id, rest[id] or 0, nil
    n = n + 2
  end
  for id, amount in pairs(rest) do
    list[n + 1], list[n + 2] = id, amount
    n = n + 2
  end
  list[7] = (n - 7) / 2
  return packed_numbers(list, 1, n) .. lane.answer
end

-- When the bucket has to look at this lane again.
local function lane_due(lane)
  for _, amount in pairs(lane.shares) do
    if amount > 0 then return lane.lease_until end
  end
  return lane.forget_at
end

local function bucket_unused(key)
  return {
    key = key, born = 0, now = 0, offset = 0, paused_until = 0, surfaced_until = 0, asked_until = 0, expires = 0, next_sweep = MAX_AMOUNT, kept_until = 0,
    quotas = {}, lanes = {}, gone = {},
  }
end

-- A bucket with one lane, as they are stored. What is not a state of ours is an error, and stays as it is.
local function bucket_loaded(key, state, field, record)
  local bucket = bucket_unused(key)
  bucket.lanes[field] = record and lane_decoded(record)
  if not state then return bucket end

  bucket.shapes = redis.call('HGET', key, 'q') or ''
  local shapes = numbers(bucket.shapes, 1, math.floor(#bucket.shapes / 8))
  if shapes[1] ~= VERSION then
    error('the state of this bucket was not written by this version of tower-throttle; use another prefix')
  end
  local list, count = numbers(state, 1, math.floor(#state / 8)), (#shapes - 1) / 10
  bucket.born, bucket.now, bucket.offset = list[2], list[3], list[4]
  bucket.expires, bucket.next_sweep, bucket.kept_until = list[6], list[7], list[8]
  local more, capped = 9 + 6 * count, list[5] > 0
  if #list < (capped and more + 2 or more - 1) then error('the state of this bucket is cut short') end
  if capped then
    bucket.paused_until, bucket.surfaced_until, bucket.asked_until = list[more], list[more + 1], list[more + 2]
    more = more + 3
  end
  for k = 1, count do
    bucket.quotas[k], more = quota_decoded(key, list, 3 + 6 * k, more, capped, shapes, 10 * k - 8)
  end
  if more ~= #list + 1 then error('the state of this bucket is cut short') end
  return bucket
end

local function bucket_save(bucket, digest, wall, needed_until)
  if needed_until > bucket.kept_until then
    -- A minute more than needed, and so once in a minute.
    bucket.kept_until = needed_until + 59000000
    bucket.keep_for = math.ceil((needed_until - wall) / 1000) + 60000
  end
  local withheld_until = bucket.paused_until > bucket.now and bucket.paused_until or 0
  for _, quota in ipairs(bucket.quotas) do
    withheld_until = math.max(withheld_until, quota.withheld_until, quota.all_until)
  end
  local list, more, capped, shapes = {
    digest, bucket.born, bucket.now, bucket.offset, withheld_until, bucket.expires, bucket.next_sweep,
    bucket.kept_until,
  }, {}, withheld_until > 0, {VERSION}
  if capped then more[1], more[2], more[3] = bucket.paused_until, bucket.surfaced_until, bucket.asked_until end
  for _, quota in ipairs(bucket.quotas) do quota_encode(quota, list, more, capped, shapes) end
  for _, number in ipairs(more) do list[#list + 1] = number end
  shapes = packed_numbers(shapes, 1, #shapes)

  for field in pairs(bucket.gone) do redis.call('HDEL', bucket.key, field) end
  local fields = {'s', packed_numbers(list, 1, #list)}
  local function add(field, value)
    fields[#fields + 1], fields[#fields + 2] = field, value
  end
  if shapes ~= bucket.shapes then add('q', shapes) end
  for _, quota in ipairs(bucket.quotas) do
    local packed = quota.ring and ring_changed(quota.ring)
    if packed then add(quota.ring.field, packed) end
  end
  for field, lane in pairs(bucket.lanes) do
    if lane and lane.changed then add(field, lane_encoded(lane, digest, bucket.quotas, #bucket.rules)) end
  end
  for first = 1, #fields, 1000 do
    redis.call('HSET', bucket.key, unpack(fields, first, math.min(first + 999, #fields)))
  end
  if bucket.keep_for then redis.call('PEXPIRE', bucket.key, bucket.keep_for) end
end

-- The lane or claim of this field, if there is one.
local function bucket_lane(bucket, field)
  local lane = bucket.lanes[field]
  if lane == nil then
    local record = redis.call('HGET', bucket.key, field)
    lane = record and lane_decoded(record)
    bucket.lanes[field] = lane
  end
  return lane
end

-- The same, which is made if it is not known.
local function bucket_enter(bucket, field)
  local lane = bucket_lane(bucket, field)
  if not lane then
    lane = lane_new(bucket.now)
    bucket.lanes[field], bucket.gone[field] = lane, nil
  end
  lane.changed = true
  return lane
end

local function bucket_remove(bucket, field)
  bucket.lanes[field], bucket.gone[field] = false, true
end

-- The owner of `shares` is gone.
local function bucket_abandon(bucket, shares)
  for id, amount in pairs(shares) do
    for _, quota in ipairs(bucket.quotas) do
      if amount > 0 and quota.id == id then quota_abandon(quota, amount, bucket.now) end
    end
  end
end

-- Pauses everything; nobody waits that out.
local function bucket_surface(bucket, until_then, asked_until)
  bucket.paused_until = math.max(bucket.paused_until, until_then)
  surfaced_extend(bucket, until_then, asked_until, bucket.now)
end

-- Ends every pause.
local function bucket_resume(bucket)
  bucket.paused_until, bucket.surfaced_until, bucket.asked_until = 0, 0, 0
  for _, quota in ipairs(bucket.quotas) do cap_resume(quota) end
end

-- What is left of a wait that nobody waits out, or 0.
local function bucket_asked(bucket)
  return surfaced_asked(bucket, bucket.paused_until, bucket.now)
end

-- Forgets a claim, with what it has in flight on quotas that whoever settled it does not know.
local function bucket_end_claim(bucket, field)
  bucket_abandon(bucket, bucket.lanes[field].shares)
  bucket_remove(bucket, field)
end

-- Ends the leases that are over. Forgets the lanes that were silent for long, and the quotas after the first `known`
-- that mean nothing any more.
local function bucket_sweep(bucket, known, now)
  local next_sweep, all = MAX_AMOUNT, redis.call('HGETALL', bucket.key)
  for i = 1, #all, 2 do
    local field = all[i]
    if string.sub(field, 1, 1) == 'l' then
      local lane = lane_decoded(all[i + 1])
      bucket.lanes[field] = lane
      if lane.lease_until <= now then
        bucket_abandon(bucket, lane.shares)
        lane.shares, lane.since, lane.changed = {}, now, true
      end
      local due = lane_due(lane)
      if due <= now then
        bucket_remove(bucket, field)
      else
        next_sweep = math.min(next_sweep, due)
      end
    end
  end
  bucket.next_sweep = next_sweep

  local quotas = {}
  for index, quota in ipairs(bucket.quotas) do
    if index <= known or quota.expires > now or quota.in_flight > 0 then
      quotas[#quotas + 1] = quota
    elseif quota.ring then
      bucket.gone[quota.ring.field] = true
    end
  end
  bucket.quotas = quotas
end

-- Brings clock, quotas and leases to `now`, with the quotas in the order of `rules`.
local function bucket_advance(bucket, rules, now, wall)
  local quotas = bucket.quotas
  if bucket.born == 0 then bucket.born = now end
  bucket.now, bucket.offset = now, drained(now, wall)
  for index, rule in ipairs(rules) do
    local found = index
    while quotas[found] and quotas[found].id ~= rule.id do found = found + 1 end
    local quota = quotas[found] or quota_new(rule, now, wall)
    quotas[found] = quotas[index]
    quotas[index] = quota
    quota_advance(quota, rule, now, wall)
  end
  if now >= bucket.next_sweep then bucket_sweep(bucket, #rules, now) end
end

-- Gives a lane, or a detached reservation, time until its lease and its record end.
local function bucket_extend(bucket, field, lease_until, forget_at)
  local lane = bucket_enter(bucket, field)
  lane.lease_until, lane.forget_at = lease_until, forget_at
  bucket.next_sweep = math.min(bucket.next_sweep, lane_due(lane))
  bucket.expires = math.max(bucket.expires, forget_at)
end

-- Keeps the state for as long as its quotas mean something, with holds of a lease as long as `lease`.
local function bucket_keep_while_charged(bucket, rules, lease, wall)
  for index in ipairs(rules) do
    local quota = bucket.quotas[index]
    quota.expires = math.max(quota.expires, sum(bucket.now, quota_lasts(quota, lease, bucket.now, wall)))
    bucket.expires = math.max(bucket.expires, quota.expires)
  end
  bucket.expires = math.max(bucket.expires, bucket.paused_until)
end
