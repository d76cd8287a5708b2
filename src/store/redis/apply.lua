-- A batch, once.

local APPLIED = 0
local STALE = 1
local UNCHARTED = 2

local function reply(outcome, rest)
  return struct.pack('<ddd', 24 + #rest, wall, outcome) .. rest
end

local last
message, last = numbers(ARGV[1])
wall = clock()
session = message[1]
record_field = 'r' .. struct.pack('<d', session)
local seq, lease, is_sharded, has_flows, count = message[2], message[3], message[4], message[5] == 1, message[6]
local at, is_uncharted = 7, false
for b = 1, count do
  local bucket
  bucket, at = bucket_declared(message, at, b, wall)
  buckets[b] = bucket
  -- What is known of a batch that was applied before.
  local record = b == 1 and seq > 0 and bucket.found[2]
  if record and seq <= struct.unpack('<d', record) then
    local known = record_decoded(record)
    if seq < known.seq then return reply(STALE, '') end
    return reply(APPLIED, known.answer)
  end
  for k = 1, bucket.count do is_uncharted = is_uncharted or bucket.rules[k].is_uncharted end
end
if is_uncharted then return reply(UNCHARTED, '') end

for b = 1, count do
  bucket_advance(buckets[b], wall)
  has_flows = has_flows or buckets[b].flow_count > 0
end
if not has_flows or not rare.waiting.perform_in_turns(at, last) then each_run(at, last, perform) end

if edited then refold() end
if seq > 0 then bucket_enter(buckets[1]) end
local seen, n = {}, 0
for b = 1, count do
  local bucket = buckets[b]
  if bucket.is_told then
    rare.waiting.stand(bucket)
  end
  if bucket.heads then rare.waiting.wake(bucket, ARGV[2], is_sharded == 1 and 'SPUBLISH' or 'PUBLISH') end
  bucket_end(bucket, lease, seq > 0, wall)
  seen[n + 1], seen[n + 2], seen[n + 3], seen[n + 4] = bucket.now, bucket.was, bucket.born, bucket.expires
  n = n + 4
end
local answered = packed_numbers(seen, n) .. packed_numbers(verdicts, #verdicts)
if seq > 0 then buckets[1].own.seq, buckets[1].own.answer = seq, answered end
for b = 1, count do bucket_save(buckets[b], wall) end
return reply(APPLIED, answered)
