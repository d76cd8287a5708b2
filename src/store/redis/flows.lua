-- Start-time fair queuing between the flows of a bucket. A flow is a field of its own: start, when
-- it was last moved or began to wait, and until when it waits, as far as is known. There are
-- `flow_count`; without any, all that waits is of one flow.

-- RARE waiting

local FLOW_MEMORY = 60000000

-- {start, touched, waits_until} of a flow, if it is known.
local function flow_known(bucket, flow)
  if bucket.flow_count == 0 then return nil end
  bucket.flows = bucket.flows or {}
  local known = bucket.flows[flow]
  if known == nil then
    local packed = redis.call('HGET', bucket.key, 'f' .. struct.pack('<d', flow))
    known = false
    if packed then
      known = {}
      known.start, known.touched, known.waits_until = struct.unpack('<ddd', packed)
    end
    bucket.flows[flow] = known
  end
  return known or nil
end

local function flow_set(bucket, flow, start, waits_until)
  local known = flow_known(bucket, flow)
  bucket.flows, bucket.rare = bucket.flows or {}, true
  bucket.flows[flow] =
    {start = start, touched = bucket.now, waits_until = waits_until, changed = true}
  if not known then
    bucket.flow_count = bucket.flow_count + 1
    rare.changes.due_insert(bucket, bucket.now + FLOW_MEMORY, 'f', flow)
  end
end

-- Where a flow starts that takes turns in this bucket. It waits if it has a head in any bucket of
-- the batch: it may wait in those that the batch does not name, where its tag is not asked for.
local function start_of(bucket, flow)
  if bucket.flow_count == 0 then return 0 end
  local known, virtual_time = flow_known(bucket, flow), bucket.virtual_time
  if known and (known.start >= virtual_time or waiting.has_head(flow, bucket.id)) then
    return known.start
  end
  return virtual_time
end

-- Where a flow starts that takes turns in this bucket, and waits.
local function start_waiting(bucket, flow)
  local known = flow_known(bucket, flow)
  return known and known.start or bucket.virtual_time
end

-- A demand of a flow is granted that moves it on by `step`. The flow may wait elsewhere, where it
-- stands by its own tag.
local function flow_serve(bucket, flow, step)
  local start, known = start_of(bucket, flow), flow_known(bucket, flow)
  local own, waits_until = start, 0
  if known and known.waits_until > bucket.now then
    own, waits_until = known.start, known.waits_until
  end
  bucket.virtual_time = max(bucket.virtual_time, start)
  flow_set(bucket, flow, own + step, waits_until)
end

-- A demand of a flow waits, whichever bucket of it refused that. It looks again at `until_then` at
-- the latest.
local function flow_wait(bucket, flow, until_then)
  if bucket.flow_count == 0 and flow == 0 then return end
  local known = flow_known(bucket, flow)
  flow_set(bucket, flow, start_of(bucket, flow), max(known and known.waits_until or 0, until_then))
end

function waiting.flow_forget(bucket, flow)
  local known = flow_known(bucket, flow)
  if not known then return nil end
  local touched = max(known.touched, min(known.waits_until, bucket.now))
  if waiting.flows_that_wait(bucket)[flow] then touched = bucket.now end
  if touched + FLOW_MEMORY > bucket.now then return touched + FLOW_MEMORY end
  bucket.flows[flow], bucket.flow_count, bucket.rare = false, bucket.flow_count - 1, true
  rare.changes.bucket_forget(bucket, 'f' .. struct.pack('<d', flow))
  if bucket.flow_count == 0 then bucket.virtual_time = 0 end
end
