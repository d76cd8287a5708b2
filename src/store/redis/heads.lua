-- What waits in a bucket: of each session its first waiter on each quota, for each class and flow,
-- by arrival. A demand is measured against those of other sessions that go before it. A head:
-- {session, quota, headroom, flow, space, waiter, arrival, cost, part, count, sum, last, due,
-- held_until, is_behind, fits}, and so it is stored. `is_behind`: it would fit if nothing went
-- before it, on all of its quotas, and has since its session last looked. `fits`: it fitted here
-- when the bucket was last looked at, so its session knows or was hinted.

-- RARE waiting

-- A head whose session does not come back within this long is passed over: it may have died.
local LATE = 200000

local NAMES = {
  'session', 'quota', 'headroom', 'flow', 'space', 'waiter', 'arrival', 'cost', 'part', 'count', 'sum', 'last',
  'due', 'held_until',
}

function waiting.heads_decoded(packed)
  local list, count = rare.packed.numbers(packed)
  local heads, n = {}, 0
  for i = 1, count, 16 do
    n = n + 1
    heads[n] = {
      session = list[i], quota = list[i + 1], headroom = list[i + 2], flow = list[i + 3], space = list[i + 4],
      waiter = list[i + 5], arrival = list[i + 6], cost = list[i + 7], part = list[i + 8], count = list[i + 9],
      sum = list[i + 10], last = list[i + 11], due = list[i + 12], held_until = list[i + 13],
      is_behind = list[i + 14] == 1, fits = list[i + 15] == 1,
    }
  end
  return heads
end

function waiting.heads_encoded(bucket)
  local list, n = {}, 0
  for _, head in ipairs(bucket.heads) do
    for i = 1, 14 do list[n + i] = head[NAMES[i]] end
    list[n + 15], list[n + 16] = head.is_behind and 1 or 0, head.fits and 1 or 0
    n = n + 16
  end
  return rare.packed.pack(list, n)
end

-- Whether a head blocks younger demands: not while it is held back elsewhere for longer than its
-- quota's `horizon`.
local function head_holds(head, horizon, now)
  return head.held_until <= sum(now, horizon)
end

local function head_is_late(head, now)
  return head.due > 0 and now > head.due + LATE
end

-- Whether it is on a quota, of another session than this one, and not late.
local function head_is_live(head, session, quota, now)
  return head.quota == quota and head.session ~= session and not head_is_late(head, now)
end

local function head_before_by_tag(head, place, start)
  local tag, count, is_older = place.tag, head.count, false
  if head.arrival ~= place.arrival then
    is_older = head.arrival < place.arrival
  elseif head.session ~= place.tie then
    is_older = head.session < place.tie
  else
    is_older = nil
  end
  -- An older demand need not wait for a younger one that waits for others: the others may wait for
  -- the older one.
  if head.is_behind and is_older == false then return 0, 0 end
  if start > tag or start == tag and not is_older then return 0, 0 end
  local turns = head.part > 0 and max(ceil((tag - start) / head.part), 1) or 1
  if turns >= count then return count, head.sum end
  local behind = floor(drained(head.sum, head.cost) / (count - 1))
  return turns, head.cost + (turns - 1) * behind
end

-- How many of those that wait with a head go before a demand, and what they ask.
local function head_before(head, place, tolerance)
  if head.space == place.space and head.headroom == place.headroom and head.flow ~= place.flow then
    local start = place.starts[head.flow]
    if not start then
      start = place.bucket and start_of(place.bucket, head.flow, place.space) or 0
      place.starts[head.flow] = start
    end
    return head_before_by_tag(head, place, start)
  end
  local arrival = sum(head.arrival, tolerance)
  if arrival > place.arrival or arrival == place.arrival and head.session >= place.tie then return 0, 0 end
  local passed, span = place.arrival - arrival, drained(head.last, head.arrival)
  if passed >= span then return head.count, head.sum end
  local share = passed / span
  return 1 + floor((head.count - 1) * share), head.cost + floor(drained(head.sum, head.cost) * share)
end

-- A session's head on a quota that is this waiter.
local function heads_find(bucket, of_session, quota, waiter)
  for _, head in ipairs(bucket.heads or {}) do
    if head.session == of_session and head.quota == quota and head.waiter == waiter then return head end
  end
end

-- When a waiter of the session arrived, if it is a head.
local function heads_arrival(bucket, waiter)
  for _, head in ipairs(waiter > 0 and bucket.heads or {}) do
    if head.session == session and head.waiter == waiter then return head.arrival end
  end
end

-- Whether a flow waits here that takes turns in `space` (in any if there is none): in a session
-- that is not late.
function waiting.heads_wait(bucket, flow, space)
  for _, head in ipairs(bucket.heads or {}) do
    if head.flow == flow and (not space or head.space == space) and not head_is_late(head, bucket.now) then
      return true
    end
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

-- Replaces a session's heads.
function waiting.heads_replace(bucket, of_session, mine)
  local heads, n = {}, 0
  for _, head in ipairs(bucket.heads or {}) do
    if head.session ~= of_session then
      n = n + 1
      heads[n] = head
    end
  end
  for _, head in ipairs(mine) do
    n = n + 1
    heads[n] = head
  end
  table.sort(heads, goes_first)
  bucket.heads, bucket.heads_changed, bucket.rare = n > 0 and heads, true, true
  if n > 0 then bucket.is_plain = false end
end

-- What goes before a demand on a quota: what they ask, how many demands, how many heads.
local function heads_before(bucket, place, quota, tolerance)
  local amount, demands, heads, now, horizon = 0, 0, 0, bucket.now, quota_horizon(quota)
  for _, head in ipairs(bucket.heads) do
    if head_is_live(head, place.session, quota.id, now) and head.headroom <= place.headroom
      and head_holds(head, horizon, now) then
      local count, asked = head_before(head, place, tolerance)
      amount, demands = sum(amount, asked), sum(demands, count)
      if count > 0 then heads = heads + 1 end
    end
  end
  return amount, demands, heads
end

-- How many demands wait: of each session that is not late as many as on the quota for which most
-- do.
function waiting.heads_waiting(bucket)
  local counts, most, waiting = {}, {}, 0
  for _, head in ipairs(bucket.heads or {}) do
    if not head_is_late(head, bucket.now) then
      local of_session = counts[head.session] or {}
      counts[head.session] = of_session
      of_session[head.quota] = sum(of_session[head.quota] or 0, head.count)
      most[head.session] = max(most[head.session] or 0, of_session[head.quota])
    end
  end
  for _, count in pairs(most) do waiting = sum(waiting, count) end
  return waiting
end

-- How many demands wait for a quota, of sessions that are not late.
function waiting.heads_waiting_for(bucket, quota)
  local waiting = 0
  for _, head in ipairs(bucket.heads or {}) do
    if head_is_live(head, -1, quota, bucket.now) then waiting = sum(waiting, head.count) end
  end
  return waiting
end
