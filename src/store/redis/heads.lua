-- What waits in a bucket: of each session its first waiter on each quota, for each class and flow,
-- by arrival. A head, and so it is stored: {session, quota, headroom, flow, space, waiter, arrival,
-- cost, part, count, sum, last, due, held_until, is_behind, outlook, tag, place, heard}.

-- RARE waiting

local LATE = 200000
local UNHEARD = 300000
local UNHINTED = 500000

-- What a head can expect on its quota: others go before it; none does, but it does not fit; or it
-- fits.
local OUTLOOK_BEHIND = 0
local OUTLOOK_FIRST = 1
local OUTLOOK_FITS = 2

local NO_TAG = 1.7976931348623157e308
local NEARLY = 0.99

-- Nineteen numbers.
local HEAD_BYTES = 152
local HEAD = '<ddddddddddddddddddd'

-- The heads, and how each is stored.
function waiting.heads_decoded(packed)
  local heads, stored = {}, {}
  for at = 1, #packed, HEAD_BYTES do
    local session, quota, headroom, flow, space, waiter, arrival, cost, part, count, sum, last, due,
      held_until, is_behind, outlook, tag, place, heard = struct.unpack(HEAD, packed, at)
    local head = {
      session = session, quota = quota, headroom = headroom, flow = flow, space = space,
      waiter = waiter,
      arrival = arrival, cost = cost, part = part, count = count, sum = sum, last = last, due = due,
      held_until = held_until, is_behind = is_behind == 1, outlook = outlook, tag = tag,
      place = place, heard = heard,
    }
    heads[#heads + 1], stored[head] = head, string.sub(packed, at, at + HEAD_BYTES - 1)
  end
  return heads, stored
end

function waiting.heads_encoded(bucket)
  local parts, stored = {}, bucket.stored_heads or {}
  for i, head in ipairs(bucket.heads) do
    parts[i] = stored[head] or struct.pack(
      HEAD, head.session, head.quota, head.headroom, head.flow, head.space, head.waiter,
      head.arrival,
      head.cost, head.part, head.count, head.sum, head.last, head.due, head.held_until,
      head.is_behind and 1 or 0, head.outlook, head.tag, head.place, head.heard
    )
  end
  return table.concat(parts)
end

-- A head is not as it is stored any more.
local function head_changed(bucket, head)
  if bucket.stored_heads then bucket.stored_heads[head] = nil end
  bucket.heads_changed, bucket.rare = true, true
end

local function head_is_late(head, now)
  return head.due > 0 and now > head.due + LATE
end

local function heard_now(bucket)
  if message[2] == 0 then return 0 end
  return message[4] >= 2 and sum(bucket.now, UNHINTED) or bucket.now
end

-- Whether the session of a head may have died: it was not heard of for a while.
local function head_is_unheard(head, now)
  return head.heard > 0 and now > head.heard + UNHEARD
end

-- Whether it is this quota that a head waits for, and not another one for longer.
local function head_waits_here(head, now)
  return not head_is_late(head, now) and (head.due == 0 or head.held_until < head.due)
end

-- The heads on a quota that block younger demands, by arrival, those of one session left out.
-- `live` is how many there are with those that other quotas hold back, `oldest` the first of them,
-- and `flow` the one that all are of, if they go by arrival.
local function heads_on(quota, of_session)
  local on, n, id = {live = 0}, 0, quota.id
  local now, until_then = quota.bucket.now, sum(quota.bucket.now, quota_horizon(quota))
  for _, head in ipairs(quota.bucket.heads) do
    if head.quota == id and head.session ~= of_session and not head_is_late(head, now) then
      on.oldest, on.live = on.oldest or head, on.live + 1
      if head.held_until <= until_then then
        n = n + 1
        on[n] = head
        if n == 1 then on.flow = head.flow end
        if on.flow ~= head.flow or head.place ~= head.arrival then on.flow = nil end
      end
    end
  end
  return on
end

-- Whether a head comes first of two that take turns: its flow starts at `start`, and that of the
-- other, which arrived then, at `tag`.
local function head_is_next(head, start, tag, arrival, tie)
  return start < tag or start == tag
    and (head.arrival < arrival or head.arrival == arrival and head.session < tie)
end

-- Of those that wait with a head how many go before a demand that takes turns with its flow, and
-- what they ask.
local function head_before_by_tag(head, start, tag)
  local turns, count = head.part > 0 and max(ceil((tag - start) / head.part), 1) or 1, head.count
  if turns >= count then return count, head.sum end
  return turns, head.cost + (turns - 1) * floor(drained(head.sum, head.cost) / (count - 1))
end

-- Where a head starts that takes turns in the bucket `space`, if that is at hand.
local function head_start(head, space)
  return space and min(head.tag, start_waiting(space, head.flow)) or head.tag
end

local function catch_up(start, step, next_start)
  return step > 0 and min(start, next_start + NEARLY * step) or start
end

-- A demand that is no head among `heads`, in a bucket that is not its space, starts one step of its
-- own behind the first flow that waits there at most.
local function caught_up(heads, demand, step, now, space)
  local next_start, headroom, flow = NO_TAG, demand.headroom, demand.flow
  if space.flow_count == 0 or heads.flow == flow then return demand.tag end
  for i = 1, #heads do
    local head = heads[i]
    if head.flow ~= flow and head.space == space.id and head.headroom == headroom
      and head_waits_here(head, now) then
      next_start = min(next_start, head_start(head, space))
    end
  end
  return catch_up(demand.tag, step, next_start)
end

-- The place of a demand that is no head among `heads`: that of the last one that goes before it by
-- turns.
local function placed(heads, demand, tag, arrival, tie, space)
  local place, headroom, flow = arrival, demand.headroom, demand.flow
  if space.flow_count == 0 or heads.flow == flow then return place end
  for i = 1, #heads do
    local head = heads[i]
    if head.arrival > place and head.flow ~= flow and head.space == space.id
      and head.headroom == headroom
      and head_is_next(head, head_start(head, space), tag, arrival, tie) then
      place = head.arrival
    end
  end
  return place
end

-- What goes before a demand, or before a head, of this class and flow: what they ask, how many
-- demands, how many heads. `tag` is the start tag of its flow, which takes turns in the bucket
-- `space_id`: `space` if that is at hand. It passes heads whose place is less than `tolerance`
-- before its own, and those of the same place unless their session is below `tie`. Inside a flow
-- arrival decides: its place among others changes with each grant. It stops once they ask more than
-- `most`.
local function heads_before(
  heads, demand, arrival, place, tolerance, tie, tag, space_id, space, most
)
  local amount, demands, count, headroom, flow = 0, 0, 0, demand.headroom, demand.flow
  for i = 1, #heads do
    local head, many, asked = heads[i], 0, 0
    local own, passes, takes_turns = head.place, place - tolerance, false
    if head.space == space_id and head.headroom == headroom then
      takes_turns = head.flow ~= flow
      if not takes_turns then own, passes = head.arrival, arrival - tolerance end
    end
    if head.headroom > headroom then
      -- It leaves less to others.
    elseif head.is_behind
      and (arrival < head.arrival or arrival == head.arrival and tie <= head.session) then
      -- It is younger and waits for others, which may wait for the demand.
    elseif takes_turns then
      local start = head_start(head, space)
      if head_is_next(head, start, tag, arrival, tie) then
        many, asked = head_before_by_tag(head, start, tag)
      end
    elseif own < passes or own == passes and head.session < tie then
      local passed, span = passes - head.arrival, head.last - head.arrival
      many, asked = head.count, head.sum
      if passed < span then
        -- They are taken to have come evenly.
        local share = passed / span
        local more, behind = (many - 1) * share, drained(asked, head.cost) * share
        many, asked = 1 + (more - more % 1), head.cost + (behind - behind % 1)
      end
    elseif heads.flow == flow then
      break
    end
    if many > 0 then
      amount, demands, count = amount + asked, demands + many, count + 1
      if amount > most then break end
    end
  end
  return min(amount, MAX_AMOUNT), min(demands, MAX_AMOUNT), count
end

-- The session's head on a quota, or on any, that is this waiter.
local function heads_find(bucket, quota, waiter)
  local own = bucket.known_heads
  if not own then
    own = {}
    for _, head in ipairs(bucket.heads or {}) do
      if head.session == session then own[#own + 1] = head end
    end
    bucket.known_heads = own
  end
  for i = 1, #own do
    local head = own[i]
    if head.waiter == waiter and (not quota or head.quota == quota) then return head end
  end
end

-- The start tag that a waiter of the session keeps in a bucket.
local function kept_tag(bucket, waiter)
  local tag = NO_TAG
  if not bucket.heads or waiter == 0 then return tag end
  heads_find(bucket, nil, waiter)
  for _, head in ipairs(bucket.known_heads) do
    if head.waiter == waiter then tag = min(tag, head.tag) end
  end
  return tag
end

-- The flows that wait here in a session that is not late: by flow, the buckets where they take
-- turns.
function waiting.flows_that_wait(bucket)
  local flows = bucket.waiting_flows
  if not flows then
    flows = {}
    for _, head in ipairs(bucket.heads or {}) do
      if not head_is_late(head, bucket.now) then
        local spaces = flows[head.flow] or {}
        flows[head.flow], spaces[head.space] = spaces, true
      end
    end
    bucket.waiting_flows = flows
  end
  return flows
end

-- Whether a flow that takes turns in the bucket of this id waits in one of the batch.
function waiting.has_head(flow, space)
  for _, bucket in ipairs(buckets) do
    local spaces = bucket.heads and waiting.flows_that_wait(bucket)[flow]
    if spaces and spaces[space] then return true end
  end
  return false
end

local function goes_first(one, other)
  if one.arrival ~= other.arrival then return one.arrival < other.arrival end
  if one.session ~= other.session then return one.session < other.session end
  if one.quota ~= other.quota then return one.quota < other.quota end
  if one.headroom ~= other.headroom then return one.headroom < other.headroom end
  return one.flow < other.flow
end

local function bucket_of(id)
  for b = 1, #buckets do
    if buckets[b].id == id then return buckets[b] end
  end
end

-- Sorts a list by a number that each item has, and those that are alike as they are.
local function sort_by(list, key)
  local order, sorted = {}, {}
  for i, item in ipairs(list) do order[i] = {item = item, key = key(item), i = i} end
  table.sort(order, function(one, other)
    if one.key ~= other.key then return one.key < other.key end
    return one.i < other.i
  end)
  for i, entry in ipairs(order) do sorted[i] = entry.item end
  return sorted
end

-- Whether the heads of a bucket are all of one flow.
local function heads_are_of_one_flow(heads)
  for i = 2, #heads do
    if heads[i].flow ~= heads[1].flow then return false end
  end
  return true
end

local function head_settle(bucket, head, tag, place)
  if head.tag == tag and head.place == place then return end
  head.tag, head.place = tag, place
  head_changed(bucket, head)
end

-- Finds the tag of each head of a bucket, and its place among those that take turns elsewhere. One
-- flow goes by arrival.
function waiting.heads_placed(bucket)
  local heads, turns, tags, starts = bucket.heads, {}, {}, {}
  if heads_are_of_one_flow(heads) then
    for i = 1, #heads do head_settle(bucket, heads[i], NO_TAG, heads[i].arrival) end
    return
  end
  for _, head in ipairs(heads) do
    local spaces = turns[head.quota] or {}
    local classes = spaces[head.space] or {}
    local group = classes[head.headroom] or {firsts = {}, first_heads = {}, next_start = math.huge}
    turns[head.quota], spaces[head.space], classes[head.headroom] = spaces, classes, group
    group[#group + 1] = head
    local space, first = bucket_of(head.space), group.firsts[head.flow]
    tags[head] = not first and head_start(head, space) or space and NO_TAG or first
    group.firsts[head.flow] = first or tags[head]
    starts[head] = first and space and start_waiting(space, head.flow) or tags[head]
    if starts[head] < group.next_start and head_waits_here(head, bucket.now) then
      group.next_start, group.next_flow = starts[head], head.flow
    end
    if not first then group.first_heads[#group.first_heads + 1] = head end
  end
  for _, spaces in pairs(turns) do
    for _, classes in pairs(spaces) do
      for _, group in pairs(classes) do
        for _, head in ipairs(group.first_heads) do
          if group.next_flow and group.next_flow ~= head.flow and head.space ~= bucket.id then
            starts[head] = catch_up(starts[head], head.part, group.next_start)
            tags[head] = min(tags[head], starts[head])
          end
        end
        local place = 0
        local sorted = #group > 1 and sort_by(group, function(head) return starts[head] end)
        for _, head in ipairs(sorted or group) do
          place = max(place, head.arrival)
          head_settle(bucket, head, tags[head], place)
        end
      end
    end
  end
end

function waiting.heads_replace(bucket, of_session, mine)
  local heads, n = {}, 0
  for _, head in ipairs(bucket.heads or {}) do
    if head.session ~= of_session then
      n = n + 1
      heads[n] = head
    end
  end
  for _, head in ipairs(mine) do
    local i = n
    while i > 0 and goes_first(head, heads[i]) do
      heads[i + 1], i = heads[i], i - 1
    end
    heads[i + 1], n = head, n + 1
  end
  bucket.heads, bucket.heads_changed, bucket.rare = n > 0 and heads, true, true
  bucket.waiting_flows, bucket.known_heads = nil, nil
  if n > 0 then bucket.is_plain = false end
end

function waiting.heads_waiting(bucket, but)
  local counts, most, waiting = {}, {}, 0
  for _, head in ipairs(bucket.heads or {}) do
    if head.session ~= but and not head_is_late(head, bucket.now) then
      local of_session = counts[head.session] or {}
      counts[head.session] = of_session
      of_session[head.quota] = sum(of_session[head.quota] or 0, head.count)
      most[head.session] = max(most[head.session] or 0, of_session[head.quota])
    end
  end
  for _, count in pairs(most) do waiting = sum(waiting, count) end
  return waiting
end

function waiting.heads_waiting_for(bucket, quota)
  local waiting = 0
  for _, head in ipairs(bucket.heads or {}) do
    if head.quota == quota and not head_is_late(head, bucket.now) then
      waiting = sum(waiting, head.count)
    end
  end
  return waiting
end
