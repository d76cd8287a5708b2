-- The state of one bucket: its clock, its quotas, what waits for them, and what each session has in
-- flight. In Redis a hash of these fields, an id in them packed:
--   "s"      numbers that change all the time: digest of the rules that were obeyed last, born,
--            now, offset, expires, kept_until, due_first, due_count, virtual_time, flow_count,
--            granted, refused, and those of the quotas (see quota_state.lua). `kept_until` is when
--            the server forgets the keys; `granted` and `refused` count reserves.
--   "d"      VERSION and the shapes of the quotas.
--   "c", id  the ring of a quota.
--   "r", id  a session or claim (see session_record.lua).
--   "h"      heads (see heads.lua).
--   "g"      gate of the bucket and caps of its quotas: an id (-1 for the bucket) and a gate each.
--   "f", id  a flow (see flows.lua).
--   "n", id  a line that tells what a quota is: its name, window and metrics.
--   "o", id  a quota that is set aside, since the rules in use do not have it: when it is due, its
--            shape, its numbers, its cap.
-- Here: {key, due_key, index, id, is_told, digest, size, count, quotas, own, ..}; `own` is what is
-- known of the sending session; `is_plain` says that nothing waits and nothing is paused or
-- withheld.

-- It is part of every digest, too, and changes with the layout or the meaning of what is stored.
local VERSION = 5

-- Numbers of a state that are not a quota's.
local OF_BUCKET = 12

local SESSION_MEMORY = 600000000
local STEP = 1000000

-- RARE provider

-- The gate of the bucket and the caps of its quotas.
function provider.bucket_decode_gates(bucket, packed, quotas)
  local list, count = rare.packed.numbers(packed)
  bucket.is_plain, bucket.rare, bucket.has_gates = false, true, true
  for i = 1, count, 12 do
    local gate = provider.gate_decoded(list, i + 1)
    if list[i] < 0 then bucket.gate = gate end
    for _, quota in ipairs(quotas) do
      if quota.id == list[i] then quota.cap = gate end
    end
  end
end

-- How many demands wait, but those of a session, or of none if it is 0.
local function waiting_in(bucket, but)
  return bucket.heads and rare.waiting.heads_waiting(bucket, but) or 0
end

-- How many demands wait for a quota.
local function waiting_for(bucket, quota)
  return bucket.heads and rare.waiting.heads_waiting_for(bucket, quota.id) or 0
end

function provider.bucket_pass_cap(bucket, quota)
  if not provider.cap_pass(quota.cap, waiting_for(bucket, quota), bucket.now) then
    quota.cap = false
  end
end

function provider.bucket_pass_gate(bucket)
  gate_pass(bucket.gate, waiting_in(bucket, 0), bucket.now)
  if gate_is_gone(bucket.gate) then bucket.gate = false end
end

-- The gate of a bucket, to be changed.
local function bucket_gate(bucket)
  bucket.gate = bucket.gate or gate_new()
  return bucket.gate
end

local function bucket_resume(bucket)
  bucket.gate = false
  for _, quota in ipairs(bucket.quotas) do
    if quota.cap then gate_resume(quota.cap) end
  end
end

local function bucket_answered_well(bucket, at)
  local is_probe = bucket.gate and gate_answered(bucket.gate, at, waiting_in(bucket, 0), bucket.now)
  for _, quota in ipairs(bucket.quotas) do
    if quota.cap and gate_answered(quota.cap, at, waiting_for(bucket, quota), bucket.now) then
      is_probe = true
    end
  end
  return is_probe
end

function provider.gates_encoded(bucket)
  local list = {}
  local function append(id, gate)
    list[#list + 1] = id
    provider.gate_append(gate, list)
  end
  if bucket.gate then append(-1, bucket.gate) end
  for _, quota in ipairs(bucket.quotas) do
    if quota.cap then append(quota.id, quota.cap) end
  end
  return #list > 0 and rare.packed.pack(list, #list)
end

-- RARE changes

-- How many numbers of a state a quota has, by its kind, and how many its shape has.
local SIZES = {5, 11, 4, 2}
local SHAPE = 10

local function shape_append(quota, to)
  local n = #to
  to[n + 1], to[n + 2] = quota.id, quota.kind
  to[n + 3], to[n + 4] = quota.holds and 1 or 0, quota.whole
  to[n + 5], to[n + 6] = quota.slot or 0, quota.len or 0
  to[n + 7], to[n + 8] = quota.rate or 0, quota.tick or 0
  to[n + 9], to[n + 10] = quota.units, quota.max_debt or 0
end

local function quota_of_shape(bucket, list, i)
  local whole, units = list[i + 3], list[i + 8]
  return {
    id = list[i], kind = list[i + 1], holds = list[i + 2] == 1, whole = whole, units = units,
    room = product(whole, units), slot = list[i + 4], len = list[i + 5], rate = list[i + 6],
    tick = list[i + 7],
    max_debt = list[i + 9], bucket = bucket, charged = 0, share = 0,
  }
end

function changes.bucket_enter(bucket)
  bucket.own = bucket.own or record_new(bucket.now)
  return bucket.own
end

-- What is stored is no state that a batch left.
function changes.bucket_damaged()
  error('the state of this bucket is damaged: delete its key, or use another prefix')
end

-- The quotas of a state that other rules left. What is not a state of ours is an error, and stays
-- as it is.
function changes.bucket_stored(bucket, state)
  local stored = {}
  bucket.shapes_changed, bucket.rare, bucket.due_first = true, true, MAX_AMOUNT
  if not state then return stored end
  local shapes, count = rare.packed.numbers(redis.call('HGET', bucket.key, 'd') or '')
  if shapes[1] ~= VERSION then
    error('the state of this bucket was not written by this version of tower-throttle; '
      .. 'use another prefix')
  end
  local size = OF_BUCKET
  for i = 2, count, SHAPE do
    local quota = quota_of_shape(bucket, shapes, i)
    stored[#stored + 1], size = quota, size + SIZES[quota.kind]
  end
  if #state ~= 8 * size then error('the state of this bucket is cut short') end
  local list, i = rare.packed.numbers(state), OF_BUCKET + 1
  bucket.born, bucket.was, bucket.offset, bucket.expires = list[2], list[3], list[4], list[5]
  bucket.kept_until, bucket.due_first, bucket.due_count = list[6], list[7], list[8]
  bucket.virtual_time, bucket.flow_count = list[9], list[10]
  bucket.granted, bucket.refused = list[11], list[12]
  for _, quota in ipairs(stored) do i = quota_decode(quota, list, i) end
  return stored
end

-- A field is to be deleted.
function changes.bucket_forget(bucket, field)
  bucket.gone = bucket.gone or {}
  bucket.gone[field], bucket.rare = true, true
end

-- A quota that is set aside, if there is one of this id.
local function bucket_other(bucket, id)
  bucket.others = bucket.others or {}
  local other = bucket.others[id]
  if other == nil then
    local packed = redis.call('HGET', bucket.key, 'o' .. struct.pack('<d', id))
    if packed then
      local list, count = rare.packed.numbers(packed)
      other = quota_of_shape(bucket, list, 2)
      other.indexed_at, other.is_aside = list[1], true
      local i = quota_decode(other, list, SHAPE + 2)
      if i <= count then
        other.cap = rare.provider.gate_decoded(list, i)
      end
    end
    bucket.others[id], bucket.rare = other or false, true
  end
  return other or nil
end

function changes.other_encoded(quota)
  local list = {quota.indexed_at}
  shape_append(quota, list)
  changes.quota_encode(quota, list, SHAPE + 2)
  if quota.cap then rare.provider.gate_append(quota.cap, list) end
  return rare.packed.pack(list, #list)
end

function changes.shapes_encoded(bucket)
  local list = {VERSION}
  for _, quota in ipairs(bucket.quotas) do shape_append(quota, list) end
  return rare.packed.pack(list, #list)
end

-- Brings a quota to the present and to its rule, which may have changed.
local function quota_follow(bucket, quota, rule, wall)
  local now = bucket.now
  quota_pass(quota, now)
  if quota.cap then rare.provider.bucket_pass_cap(bucket, quota) end
  quota.begin, quota.next = rule.begin, rule.next
  if quota.kind == DRAINING then
    if quota.cap then quota.cap.withheld = rescaled(quota.cap.withheld, quota.units, rule.units) end
    if draining_adopt(quota, rule) then quota.since = now end
  elseif quota.kind == FIXED and rare.fixed.fixed_advance(quota, rule.begin, rule.next, wall) then
    quota.since = now
  end
  quota.whole, quota.units, quota.room, quota.rate = rule.whole, rule.units, rule.room, rule.rate
  quota.taken = quota.holds and quota_held_and_charged(quota) or quota.charged
end

-- The lines that tell what the quotas of the rules are, in their order.
local function bucket_notes(bucket)
  local notes = {}
  for note in string.gmatch(ARGV[2 + bucket.index] or '', '[^\n]+') do notes[#notes + 1] = note end
  return notes
end

-- Puts quotas in the order of the rules. Those that no rule has are kept for as long as they mean
-- something.
function changes.bucket_place(bucket, quotas, wall)
  local now, notes = bucket.now, bucket_notes(bucket)
  bucket.quotas, bucket.notes = quotas, {}
  for index, rule in ipairs(bucket.rules) do
    local found = index
    while quotas[found] and quotas[found].id ~= rule.id do found = found + 1 end
    if not quotas[found] then
      local other = bucket_other(bucket, rule.id)
      if other then
        due_remove(bucket, 'q', rule.id)
        bucket.others[rule.id] = false
        if other.cap then bucket.is_plain, bucket.has_gates = false, true end
      end
      if not other then bucket.notes[rule.id] = notes[index] end
      quotas[found] = other or quota_new(rule, now)
    end
    local quota = quotas[found]
    if quota.began and quota.began > now then changes.bucket_damaged() end
    quotas[found], quotas[index] = quotas[index], quota
    quota_follow(bucket, quota, rule, wall)
    quota.is_aside = nil
  end
  bucket.others = bucket.others or {}
  for index = #quotas, bucket.count + 1, -1 do
    local quota = quotas[index]
    quota.indexed_at, quotas[index] = now, nil
    bucket.others[quota.id], quota.is_aside = quota, true
    changes.due_insert(bucket, now, 'q', quota.id)
  end
end

function changes.bucket_record(bucket, id)
  if id == session then return bucket.own or nil end
  bucket.records = bucket.records or {}
  local record = bucket.records[id]
  if record == nil then
    local packed = redis.call('HGET', bucket.key, 'r' .. struct.pack('<d', id))
    record = packed and changes.record_decoded(packed)
    bucket.records[id], bucket.rare = record, true
  end
  return record or nil
end

-- What was in flight on a quota is abandoned.
local function bucket_abandon(bucket, id, amount)
  if amount == 0 then return end
  for _, quota in ipairs(bucket.quotas) do
    if quota.id == id then return quota_abandon(quota, amount, bucket.now) end
  end
  local other = bucket_other(bucket, id)
  if other then quota_abandon(other, amount, bucket.now) end
end

local function record_abandon(bucket, record)
  local shares = record.shares
  record.since, record.shares = bucket.now, nil
  record.marks = record.marks - record.marks % 2
  if record == bucket.own then
    for _, quota in ipairs(bucket.quotas) do
      local share = quota.share
      quota.share = 0
      bucket_abandon(bucket, quota.id, share)
    end
  else
    record.shares = {}
  end
  for id, amount in pairs(shares or {}) do bucket_abandon(bucket, id, amount) end
end

local function look_at_record(bucket, id)
  local record = changes.bucket_record(bucket, id)
  if not record then return end
  if record.lease_until <= bucket.now then
    record_abandon(bucket, record)
    if bucket.heads then rare.waiting.heads_replace(bucket, id, {}) end
  end
  local due = changes.record_due(record, record == bucket.own and bucket.quotas or {})
  record.indexed_at = due
  if due > bucket.now then
    changes.due_insert(bucket, due, 's', id)
  elseif record == bucket.own then
    bucket.own, bucket.is_own_gone = false, true
  else
    bucket.records[id] = false
  end
  bucket.rare = true
end

local function look_at_other(bucket, id, wall)
  local quota = bucket_other(bucket, id)
  if not quota then return end
  local again = quota_outlives(quota, bucket.now, wall)
  if again then
    quota.indexed_at = again
    changes.due_insert(bucket, again, 'q', id)
  else
    bucket.others[id] = false
    changes.bucket_forget(bucket, 'n' .. struct.pack('<d', id))
    if quota.kind <= DRAINING then changes.bucket_forget(bucket, rare.rings.ring_field(quota)) end
  end
end

local function look_at_flow(bucket, id)
  local again = rare.waiting.flow_forget(bucket, id)
  if again then changes.due_insert(bucket, again, 'f', id) end
end

function changes.bucket_sweep(bucket, wall)
  local taken = due_taken(bucket)
  for i = 1, #taken, 2 do
    local kind, id = taken[i], taken[i + 1]
    if kind == 's' then
      look_at_record(bucket, id)
    elseif kind == 'q' then
      look_at_other(bucket, id, wall)
    else
      look_at_flow(bucket, id)
    end
  end
  due_look(bucket)
end

-- Forgets a claim, with what it has in flight on quotas that the rules in use do not have.
local function bucket_end_claim(bucket, claim)
  due_remove(bucket, 's', claim)
  record_abandon(bucket, bucket.records[claim])
  bucket.records[claim] = false
end

local function bucket_enter_claim(bucket, claim)
  local record = changes.bucket_record(bucket, claim)
  if not record then
    record = record_new(bucket.now)
    record.shares = {}
    bucket.records[claim], bucket.rare = record, true
    changes.due_insert(bucket, record.indexed_at, 's', claim)
  end
  return record
end

local function bucket_detach(bucket, claim, message, at, lease, wall)
  changes.bucket_enter(bucket)
  local to, now = bucket_enter_claim(bucket, claim), bucket.now
  for k, quota in ipairs(bucket.quotas) do
    local moved = min(message[at + k], quota.share)
    quota.share = quota.share - moved
    to.shares[quota.id] = min((to.shares[quota.id] or 0) + moved, MAX_TAKEN)
  end
  if not changes.record_is_claim(to) then to.marks = to.marks + 2 end
  local until_then = sum(now, lease)
  to.lease_until, to.forget_at = until_then, until_then
  if until_then < to.indexed_at or to.indexed_at <= now then
    to.indexed_at = until_then
    changes.due_insert(bucket, until_then, 's', claim)
  end
  bucket.expires = max(bucket.expires, until_then)
  for k = 1, bucket.count do
    bucket.expires = max(bucket.expires, sum(now, quota_lasts(bucket.quotas[k], lease, now, wall)))
  end
end

