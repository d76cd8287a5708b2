-- A batch, once. What happens once per bucket is not in functions of its own: each would cost more
-- than it tells.

local APPLIED = 0
local STALE = 1
local UNCHARTED = 2

local function reply(outcome, rest)
  return struct.pack('<ddd', 24 + #rest, wall, outcome) .. rest
end

local last = #ARGV[1] / 8
if last <= AT_ONCE then
  message = {struct.unpack('<' .. string.rep('d', last), ARGV[1])}
  message[last + 1] = nil -- the position after them
else
  message = rare.packed.numbers(ARGV[1])
end
wall, session = clock(), message[1]
record_field = 'r' .. struct.pack('<d', session)
local seq, lease, has_flows, count = message[2], message[3], message[5] == 1, message[6]

-- Reads the states: a quota becomes one table, of what is declared and what is stored. Of a state
-- that other rules left, or of none, all is 0 so far.
local at, is_uncharted, is_claim = 7, false, false
for b = 1, count do
  local key, digest = KEYS[2 * b - 1], message[at + 2]
  local size, rules = message[at + 3], message[at + 4]
  local found = redis.call('HMGET', key, 's', record_field, 'h', 'g')
  if found[2] then
    local known_seq, _, _, _, _, marks = struct.unpack('<dddddd', found[2])
    if b == 1 and seq > 0 and seq <= known_seq then
      if seq < known_seq then return reply(STALE, '') end
      return reply(APPLIED, rare.changes.record_decoded(found[2]).answer)
    end
    is_claim = is_claim or marks >= 2
  end
  local state, list, format = found[1], nil, '<' .. string.rep('d', size)
  if state and #state == 8 * size then list = {struct.unpack(format, state)} end
  local is_known = list and list[1] == digest
  if not is_known then
    list = {}
    for i = 1, size do list[i] = 0 end
  end
  local quotas = {}
  local bucket = {
    key = key, due_key = KEYS[2 * b], index = b, id = message[at], is_told = message[at + 1] == 1,
    digest = digest, count = rules, rules = quotas, quotas = quotas, found = found, list = list,
    size = size,
    format = format, is_known = is_known, born = list[2], now = 0, was = list[3], offset = list[4],
    expires = list[5],
    kept_until = list[6], due_first = list[7], due_count = list[8], virtual_time = list[9],
    flow_count = list[10], granted = list[11], refused = list[12],
    own = false, heads = false, gate = false, is_plain = true, rare = false,
  }
  buckets[b], at = bucket, at + 5
  local i = OF_BUCKET + 1
  for k = 1, rules do
    local id, limit = message[at], message[at + 1]
    local kind, held = message[at + 2], message[at + 3] == 1
    local since, in_flight = list[i], list[i + 1]
    if kind == SLIDING then
      local slot, head = message[at + 4], list[i + 3]
      quotas[k] = {
        id = id, kind = SLIDING, whole = limit, units = 1, room = limit, slot = slot,
        len = message[at + 5] + 1,
        since = since, in_flight = in_flight, share = 0, charged = list[i + 2], taken = 0,
        head = head,
        newest = list[i + 4], began = head * slot, bucket = bucket,
      }
      if held then quotas[k].holds = true end
      at, i = at + 6, i + 5
    elseif kind == DRAINING then
      local tick, units, burst = message[at + 4], message[at + 5], message[at + 6]
      local slot, now = message[at + 8], list[i + 3]
      local head = (now - now % slot) / slot
      quotas[k] = {
        id = id, kind = DRAINING, holds = held, whole = burst, units = units,
        room = product(burst, units),
        rate = limit, tick = tick, max_debt = message[at + 7], slot = slot, len = message[at + 9],
        since = since, in_flight = in_flight, share = 0, charged = list[i + 2], taken = 0,
        head = head,
        newest = list[i + 4], began = head * slot * tick, bucket = bucket, at = now,
        drain = list[i + 5],
        before = list[i + 6], max_used = list[i + 7], excess = list[i + 8],
        excess_rate = list[i + 9],
        ceiling = list[i + 10],
      }
      at, i = at + 10, i + 11
    elseif kind == IN_FLIGHT then
      quotas[k] = {
        id = id, kind = IN_FLIGHT, holds = true, whole = limit, units = 1, room = limit,
        since = since,
        in_flight = in_flight, share = 0, charged = 0, taken = 0, bucket = bucket,
      }
      at, i = at + 4, i + 2
    else
      local begin, next = rare.fixed.window_at(message, at + 4, kind)
      is_uncharted = is_uncharted or not begin
      quotas[k] = {
        id = id, kind = FIXED, holds = held, whole = limit, units = 1, room = limit, since = since,
        in_flight = in_flight, share = 0, charged = list[i + 2], taken = 0,
        window_end = list[i + 3],
        begin = begin, next = next, bucket = bucket,
      }
      at, i = at + (kind == CALENDAR and 5 + message[at + 4] or 6), i + 4
    end
  end
end
if is_uncharted then return reply(UNCHARTED, '') end
if is_claim then return reply(STALE, '') end

-- Brings clocks, quotas and leases to the present, with the quotas in the order of the rules.
for b = 1, count do
  local bucket = buckets[b]
  local found, quotas, was, offset = bucket.found, bucket.quotas, bucket.was, bucket.offset
  local stored = nil
  if not bucket.is_known then
    stored = rare.changes.bucket_stored(bucket, found[1])
    was, offset = bucket.was, bucket.offset
  end
  if found[3] then
    bucket.heads, bucket.stored_heads = rare.waiting.heads_decoded(found[3])
    bucket.is_plain, bucket.rare = false, true
  end
  if found[4] then rare.provider.bucket_decode_gates(bucket, found[4], stored or quotas) end

  local now = offset > STEP and wall + offset or wall
  if now < was then now = was end
  -- Steps by one would not end.
  if now > MAX_AMOUNT then rare.changes.bucket_damaged() end
  if bucket.born == 0 then bucket.born = now end
  bucket.now, bucket.offset = now, now > wall and now - wall or 0
  if stored then
    rare.changes.bucket_place(bucket, stored, wall)
    quotas = bucket.quotas
  else
    for k = 1, bucket.count do
      local quota = quotas[k]
      if quota.began and quota.began > now then rare.changes.bucket_damaged() end
      quota_pass(quota, now)
      if quota.cap then rare.provider.bucket_pass_cap(bucket, quota) end
      if quota.kind == FIXED and rare.fixed.fixed_advance(quota, quota.begin, quota.next, wall) then
        quota.since = now
      end
      quota.taken = quota.holds and quota_held_and_charged(quota) or quota.charged
    end
  end

  -- The record of the session, whose shares the quotas take over.
  local record = found[2]
  if record then
    local numbers = RECORD_NUMBERS + 2 * bucket.count
    local list = #record >= 8 * numbers and {struct.unpack('<' .. string.rep('d', numbers), record)}
    local is_in_order = list and list[7] == bucket.count
    for k = 1, is_in_order and bucket.count or 0 do
      if list[2 * k + 6] ~= quotas[k].id then is_in_order = false end
    end
    if is_in_order then
      for k = 1, bucket.count do quotas[k].share = list[2 * k + 7] end
      bucket.own = {
        seq = list[1], lease_until = list[2], forget_at = list[3], indexed_at = list[4],
        since = list[5],
        marks = list[6], answer = (b > 1 or seq == 0) and string.sub(record, 8 * numbers + 1) or '',
        shares = nil,
      }
    else
      bucket.own = rare.changes.own_record_decoded(bucket, record)
    end
  end
  -- When the session was last part of a batch here, if that is known; else the bucket's time.
  if seq > 0 and bucket.own then
    bucket.was = drained(bucket.own.forget_at, SESSION_MEMORY)
  end
  if bucket.due_first <= now then rare.changes.bucket_sweep(bucket, wall) end
  if bucket.gate then rare.provider.bucket_pass_gate(bucket) end
  if bucket.flow_count > 0 then has_flows = true end
end

if not has_flows or not rare.waiting.perform_in_turns(at, last) then each_run(at, last, perform) end
if edited then refold() end

-- Gives the session time until its next batch, and the states as long as they mean something.
local seen, n = {}, 0
for b = 1, count do
  local bucket = buckets[b]
  if b == 1 and seq > 0 and not bucket.own then rare.changes.bucket_enter(bucket) end
  if bucket.is_told then rare.waiting.stand(bucket) end
  if bucket.heads then
    rare.waiting.wake(bucket, ARGV[2], message[4] % 2 == 1 and 'SPUBLISH' or 'PUBLISH')
  end

  local now, own, expires, quotas = bucket.now, bucket.own, bucket.expires, bucket.quotas
  if own then
    local lease_until, forget_at = sum(now, lease), sum(now, SESSION_MEMORY)
    own.lease_until, own.forget_at = lease_until, forget_at
    local due = own.marks % 2 == 1 and lease_until
      or own.shares and rare.changes.record_due(own, quotas) or forget_at
    for k = 1, bucket.count do
      if quotas[k].share > 0 then due = lease_until end
    end
    if due < own.indexed_at or own.indexed_at <= now then
      rare.changes.due_insert(bucket, due, 's', session)
      own.indexed_at = due
    end
    if seq > 0 and forget_at > expires then expires = forget_at end
  end
  local hold = lease < SESSION_MEMORY and lease or SESSION_MEMORY
  for k = 1, bucket.count do
    local until_then = now + quota_lasts(quotas[k], hold, now, wall)
    if until_then > expires then expires = until_then end
  end
  if bucket.gate then
    expires = math.max(expires, now + rare.provider.gate_lasts(bucket.gate, now))
  end
  if expires > MAX_AMOUNT then expires = MAX_AMOUNT end
  bucket.expires = expires
  seen[n + 1], seen[n + 2], seen[n + 3], seen[n + 4] = now, bucket.was, bucket.born, expires
  n = n + 4
end
local v = #verdicts
local answered
if n + v <= AT_ONCE then
  for i = 1, v do seen[n + i] = verdicts[i] end
  answered = struct.pack('<' .. string.rep('d', n + v), unpack(seen, 1, n + v))
else
  answered = rare.packed.pack(seen, n) .. rare.packed.pack(verdicts, v)
end

-- Writes.
for b = 1, count do
  local bucket = buckets[b]
  local own, quotas, list, size = bucket.own, bucket.quotas, bucket.list, bucket.size
  local expires, keep_for = bucket.expires, nil
  local needed = own and own.lease_until > expires and own.lease_until or expires
  needed = needed - bucket.now + wall
  if needed > bucket.kept_until then
    -- A minute more than needed, and so once in a minute.
    keep_for = math.ceil((needed - wall) / 1000) + 60000
    bucket.kept_until = needed + 59000000
  end
  list[1], list[2], list[3] = bucket.digest, bucket.born, bucket.now
  list[4], list[5] = bucket.offset, expires
  list[6], list[7], list[8] = bucket.kept_until, bucket.due_first, bucket.due_count
  list[9], list[10] = bucket.virtual_time, bucket.flow_count
  list[11], list[12] = bucket.granted, bucket.refused
  local i = OF_BUCKET + 1
  for k = 1, bucket.count do
    local quota = quotas[k]
    local kind = quota.kind
    list[i], list[i + 1] = quota.since, quota.in_flight
    if kind == SLIDING then
      list[i + 2], list[i + 3], list[i + 4] = quota.charged, quota.head, quota.newest
      i = i + 5
    elseif kind == DRAINING then
      list[i + 2], list[i + 3] = quota.charged, quota.at
      list[i + 4], list[i + 5] = quota.newest, quota.drain
      list[i + 6], list[i + 7], list[i + 8] = quota.before, quota.max_used, quota.excess
      list[i + 9], list[i + 10] = quota.excess_rate, quota.ceiling
      i = i + 11
    elseif kind == FIXED then
      list[i + 2], list[i + 3] = quota.charged, quota.window_end
      i = i + 4
    else
      i = i + 2
    end
  end
  local fields = {'s', struct.pack(bucket.format, unpack(list, 1, size))}
  if own then
    fields[3] = record_field
    if b == 1 and seq > 0 then own.seq, own.answer = seq, answered end
    if own.shares then
      fields[4] = rare.changes.record_encoded(own, quotas)
    else
      local r, n = {
        own.seq, own.lease_until, own.forget_at, own.indexed_at, own.since, own.marks, bucket.count,
      }, RECORD_NUMBERS
      for k = 1, bucket.count do
        local quota = quotas[k]
        r[n + 1], r[n + 2] = quota.id, quota.share
        n = n + 2
      end
      fields[4] = struct.pack('<' .. string.rep('d', n), unpack(r, 1, n)) .. own.answer
    end
  end
  for k = 1, bucket.count do
    local ring = quotas[k].ring
    if ring and (ring.touched > 0 or ring.is_changed) then
      fields[#fields + 1] = rare.rings.ring_field(quotas[k])
      fields[#fields + 1] = rare.rings.ring_packed(quotas[k])
    end
  end
  if bucket.rare then rare.rest.bucket_save_rest(bucket, fields) end
  for first = 1, #fields, 2000 do
    redis.call('HSET', bucket.key, unpack(fields, first, math.min(first + 1999, #fields)))
  end
  if keep_for then redis.call('PEXPIRE', bucket.key, keep_for) end
  if keep_for or bucket.due_changed then
    redis.call('PEXPIRE', bucket.due_key, math.ceil((bucket.kept_until - wall) / 1000) + 1000)
  end
end
return reply(APPLIED, answered)
