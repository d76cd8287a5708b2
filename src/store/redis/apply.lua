-- Applies a batch to its buckets, once.
--
-- KEYS     one per bucket, all in one hash slot.
-- ARGV[1]  packed numbers: lane, seq, lease, then for each bucket how many rules it has, and those rules. A rule is its
--          id, limit, kind (by KINDS) and whether it is held, then, by kind:
--            sliding: slot, slots; draining: tick, units, burst, max_debt, slot, slots; fixed: length, anchor;
--            in_flight: nothing; calendar: how many boundaries, and those.
-- ARGV[2]  and on: packed numbers: operations, whole ones, one after the other:
--            1, 2, 3  reserve in mode wait, try, dry; 4, 5, 6 the same, explained: headroom, costs;
--            7, 8     settle and close, or adjust: granted at, reserved, actual;
--            9, 10    the same of a claim: granted at, claim, reserved, actual;
--            11       detach: claim, lease, reserved;
--            12       pause: for how long;
--            13       status.
-- No argument carries the time.
--
-- Reply: packed numbers: the clock, the outcome (0 applied, 1 stale, 2 uncharted), and if it was applied the time at
-- which, for each bucket when its state was born and when it expires, then how many verdicts there are and how
-- many reasons; after that one byte per verdict, and the reasons as packed numbers (see step.lua).

local APPLIED, STALE, UNCHARTED = 0, 1, 2

-- A clock that goes back by more than this has been stepped; by less, time stands still until it is caught up.
local STEP = 1000000

local function clock() local time = redis.call('TIME') return time[1] * 1000000 + time[2] end -- TIME

local wall = clock()
local message = numbers(ARGV[1], 1, #ARGV[1] / 8)
local seq, lease, field = message[2], message[3], 'l' .. string.sub(ARGV[1], 1, 8)

local buckets, rules, at = {}, {}, 4
for b, key in ipairs(KEYS) do
  local count
  buckets[b], rules[b], count, at = bucket_loaded(key, field), {}, message[at], at + 1
  for index = 1, count do rules[b][index], at = rule_decoded(message, at) end
end

local function replied(now, answer)
  local reply = {wall, APPLIED, now}
  for b, bucket in ipairs(buckets) do reply[2 * b + 2], reply[2 * b + 3] = bucket.born, bucket.expires end
  return packed_numbers(reply, 1, #reply) .. answer
end

-- What is known of a batch that was applied before.
local known = buckets[1].lanes[field]
if known and seq < known.seq then return struct.pack('<dd', wall, STALE) end
if known and seq == known.seq then return replied(known.answered_at, known.answer) end

for _, rules in ipairs(rules) do
  for _, rule in ipairs(rules) do
    if rule_is_uncharted(rule, wall) then return struct.pack('<dd', wall, UNCHARTED) end
  end
end

-- The present: never before what any of the buckets has seen. A small step back is waited out, a large one is made up
-- for from then on.
local seen, offset = 0, 0
for _, bucket in ipairs(buckets) do
  seen = math.max(seen, bucket.now)
  if bucket.offset > STEP then offset = math.max(offset, bucket.offset) end
end
local now = math.max(wall + offset, seen)

local batch = {field = field, now = now, wall = wall, buckets = buckets, quotas = {}, count = 0, edited = false, reasons = {}}
for b, bucket in ipairs(buckets) do
  bucket_advance(bucket, rules[b], now, wall)
  local lane = bucket_enter(bucket, field)
  bucket.rules = rules[b]
  for index in ipairs(rules[b]) do
    local quota = bucket.quotas[index]
    batch.count = batch.count + 1
    batch.quotas[batch.count], quota.bucket, quota.lane = quota, bucket, lane
  end
end

local answer, verdicts = {}, 0
for argument = 2, #ARGV do
  local ops = numbers(ARGV[argument], 1, #ARGV[argument] / 8)
  local codes, count, at = {}, 0, 1
  while ops[at] do
    count = count + 1
    codes[count], at = apply_operation(batch, ops, at)
  end
  answer[argument] = string.char(unpack(codes))
  verdicts = verdicts + count
end
refold(batch)
answer[1] = struct.pack('<dd', verdicts, #batch.reasons)
answer[#ARGV + 1] = packed_numbers(batch.reasons, 1, #batch.reasons)
answer = table.concat(answer)

local lease_until = sum(now, lease)
for b, bucket in ipairs(buckets) do
  bucket_extend(bucket, field, lease_until, sum(now, LANE_MEMORY))
  bucket_keep_while_charged(bucket, rules[b], math.min(lease, LANE_MEMORY), wall)
end
local lane = bucket_enter(buckets[1], field)
lane.seq, lane.answered_at, lane.answer = seq, now, answer
for _, bucket in ipairs(buckets) do bucket_save(bucket, math.max(bucket.expires, lease_until) - now) end
return replied(now, answer)
