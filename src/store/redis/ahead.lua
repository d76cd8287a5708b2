-- What goes before a demand on a quota: heads of other sessions, and waiters of its own session
-- that are before it in the batch.

-- What waiters of the session ask of quotas that refused them goes ahead of some demands: of such a
-- quota `ahead` is a list of {headroom, amount, demands}, one for each class. A demand that leaves
-- less to others is not behind them.
local is_any_ahead = false

-- RARE waiting

local TOLERANCE = 20000
local TOLERANCE_PER_HEAD = 2000

local function go_ahead(quota, headroom, amount, demands)
  is_any_ahead = true
  quota.ahead = quota.ahead or {}
  for _, class in ipairs(quota.ahead) do
    if class.headroom == headroom then
      class.amount, class.demands = sum(class.amount, amount), sum(class.demands, demands)
      return
    end
  end
  quota.ahead[#quota.ahead + 1] = {headroom = headroom, amount = amount, demands = demands}
end

-- Calls of the session end, whose grant times are the numbers from index `first` on. The bucket
-- remembers the length of the shortest.
function waiting.calls_end(bucket, first, last)
  local newest = 0
  for i = first, last do newest = max(newest, message[i]) end
  local length, shortest = drained(bucket.now, newest), bucket.shortest_call
  if not shortest or length < shortest then bucket.shortest_call = length end
end

local function tolerance_on(quota, others)
  local oldest = others.oldest
  if quota.kind == IN_FLIGHT then
    local length = quota.bucket.shortest_call
    return length and length < TOLERANCE and min(TOLERANCE, 2 * length) or 0
  end
  if quota.kind ~= DRAINING or not oldest then return 0 end
  local capacity = capacity_for(quota, oldest.cost, oldest.headroom)
  local ask = {cost = oldest.cost, ahead = 0, before = 0, capacity = capacity}
  local _, wait = quota_shortage(quota, ask, quota.bucket.now, wall)
  return wait and wait < TOLERANCE and max(TOLERANCE, TOLERANCE_PER_HEAD * others.live) or 0
end

-- Measures what heads of other sessions go before a demand on a quota: what they `ask`, how many
-- demands these `others` are, and how many heads (`rank`).
local function look_at_others(demand, ask, quota, bucket)
  -- The heads stay as they are until all operations are done.
  local others, space = quota.others, demand.space
  if not others then
    others = heads_on(quota, bucket.is_told and session or -1)
    quota.others = others
  end
  local tolerance = demand.mode == WAIT and tolerance_on(quota, others) or 0
  -- Many waiters have arrived together.
  local arrival, tie = drained(bucket.now, demand.age), demand.tie
  local is_like_last = arrival == ask.arrival and tie == ask.tie and tolerance == ask.tolerance
  if is_like_last and space.flow_count == 0 then return end
  ask.arrival, ask.tie, ask.tolerance = arrival, tie, tolerance
  local tag = demand.tag
  if space ~= bucket then
    tag = caught_up(others, demand, waiting.demand_step(demand), bucket.now, space)
  end
  local place = placed(others, demand, tag, arrival, tie, space)
  ask.amount, ask.others, ask.rank = heads_before(
    others, demand, arrival, place, tolerance, tie, tag, space.id, space, math.huge
  )
end

-- Fills in what goes before a demand on a quota that it asks something of: how many demands
-- (`before`) and what these ask (`ahead`).
local function look_ahead(demand, ask)
  local quota = ask.quota
  if quota.bucket.heads then look_at_others(demand, ask, quota, quota.bucket) end
  local amount, demands = ask.amount, ask.others
  if quota.ahead then
    for _, class in ipairs(quota.ahead) do
      if class.headroom <= demand.headroom then
        amount, demands = sum(amount, class.amount), sum(demands, class.demands)
      end
    end
  end
  ask.ahead, ask.before = amount, demands
end
