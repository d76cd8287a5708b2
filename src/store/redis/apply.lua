-- The batch, where there was no shortcut.

local APPLIED, STALE, UNCHARTED = 0, 1, 2

-- A clock that goes back by more than this has been stepped; by less, time stands still until it is caught up.
local STEP = 1000000

local declared = numbers(ARGV[3], 1, #ARGV[3] / 8)
local buckets, rules, digests, at = {}, {}, {}, 1
for b, key in ipairs(KEYS) do
  if b > 1 then found = redis.call('HMGET', key, 's', field) end
  buckets[b], rules[b], digests[b] = bucket_loaded(key, found[1], field, found[2]), {}, declared[at]
  local count = declared[at + 1]
  at = at + 2
  for index = 1, count do rules[b][index], at = rule_decoded(declared, at) end
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

local codes, verdicts = apply_operations(batch, message, first_op)
for argument = 4, #ARGV do
  local more, count = apply_operations(batch, numbers(ARGV[argument], 1, #ARGV[argument] / 8), 1)
  codes, verdicts = codes .. more, verdicts + count
end
refold(batch)
local reasons = batch.reasons
local answer = struct.pack('<dd', verdicts, #reasons) .. codes .. packed_numbers(reasons, 1, #reasons)

local lease_until = sum(now, lease)
for b, bucket in ipairs(buckets) do
  bucket_extend(bucket, field, lease_until, sum(now, LANE_MEMORY))
  bucket_keep_while_charged(bucket, rules[b], math.min(lease, LANE_MEMORY), wall)
end
local lane = bucket_enter(buckets[1], field)
lane.seq, lane.answered_at, lane.answer = seq, now, answer
for b, bucket in ipairs(buckets) do
  bucket_save(bucket, digests[b], wall, wall + math.max(bucket.expires, lease_until) - now)
end
return replied(now, answer)
