-- A demand that is measured against what goes before it: whether it fits, and if not, why.

-- RARE waiting

-- The reserves of a run: what they have in common, and what the one at hand asks of each quota.
function waiting.demand_of(mode, of, count, headroom, flow, weight)
  local asks = {}
  for k = 1, count do
    asks[k] = {quota = of.quotas[k], by = k - 1, amount = 0, others = 0, rank = 0}
  end
  return {
    mode = mode, of = of, count = count, headroom = headroom, flow = flow, weight = weight,
    space = of[#of], asks = asks, paused = {},
  }
end

-- Measures the reserve whose costs follow index `first` of the message. Where the operations take
-- turns, `turn` is {age, tag, overtakes}, the last if it comes before an older one since its flow
-- is next. Returns whether it fits.
function waiting.demand_fits(demand, first, turn)
  local of, waiter, told, fits, k = demand.of, message[first - 1], message[first], true, 0
  demand.first, demand.waiter, demand.told, demand.turn = first, waiter, told, turn
  demand.age = turn and turn.age or age_of(demand.mode, of, waiter, told)
  demand.tag = turn and turn.tag or start_of(demand.space, demand.flow)
  demand.tie = demand.mode == WAIT and waiter > 0 and session or math.huge
  for b, bucket in ipairs(of) do
    local most, now = 0, bucket.now
    for _ = 1, bucket.count do
      k = k + 1
      local ask = demand.asks[k]
      ask.cost = message[first + k]
      ask.capacity = capacity_for(ask.quota, ask.cost, demand.headroom)
      look_ahead(demand, ask)
      ask.fits = quota_fits(ask.quota, ask, now)
      fits = fits and ask.fits
      if ask.cost > 0 then most = max(most, ask.before) end
    end
    demand.paused[b] = bucket.gate and rare.provider.gate_wait(bucket.gate, most, now) or 0
    fits = fits and demand.paused[b] == 0
  end
  return fits
end

-- How far a grant moves the demand's flow on.
function waiting.demand_step(demand)
  return step_of(demand.first, demand.of, demand.count, demand.weight)
end

-- The demand was granted.
function waiting.demand_serve(demand)
  flow_serve(demand.space, demand.flow, waiting.demand_step(demand))
end

-- Whether a refused waiter would fit if nothing went before it.
local function is_behind(demand)
  for _, bucket in ipairs(demand.of) do
    if bucket.gate and rare.provider.gate_wait(bucket.gate, 0, bucket.now) > 0 then return false end
  end
  for _, ask in ipairs(demand.asks) do
    if not ask.fits and not fits_alone(ask.quota, ask.cost, demand.headroom) then return false end
  end
  return true
end

-- Whether heads of other sessions go before a refused demand.
local function has_others(demand)
  for _, ask in ipairs(demand.asks) do
    if ask.rank > 0 then return true end
  end
end

-- Whether the demand is a head on a quota already.
local function is_head_on(demand, quota)
  return demand.tie == session and heads_find(quota.bucket, quota.id, demand.waiter)
end

-- Whether the demand was refused on a quota, and is a head there since. One that was not looked at
-- may be a head of a bucket that it cannot use: it came to wait behind another one that could.
local function has_place_on(demand, quota)
  local head = is_head_on(demand, quota)
  return head and head.held_until > 0
end

-- The reasons of a refusal: pauses, and asks that now say {available, wait, alone, at_best, asked}.
-- With them come the quotas that refused a waiter before, where it keeps its place.
local function violations_of(demand)
  local violations, n, k = {}, 0, 0
  for b, bucket in ipairs(demand.of) do
    local wait, most, rank = demand.paused[b], 0, 0
    for _ = 1, bucket.count do
      k = k + 1
      local ask = demand.asks[k]
      if ask.cost > 0 and ask.others >= most then most, rank = ask.others, ask.rank end
    end
    if wait > 0 then
      n = n + 1
      violations[n] = {
        by = -b, place = b, available = 0, wait = wait, alone = wait, at_best = wait, rank = rank,
        others = most,
        asked = rare.provider.gate_asked(bucket.gate, bucket.now),
      }
    end
  end
  k = 0
  for b, bucket in ipairs(demand.of) do
    for _ = 1, bucket.count do
      k = k + 1
      local ask, now = demand.asks[k], bucket.now
      local quota, cost, fits = ask.quota, ask.cost, ask.fits
      ask.refuses = not fits or demand.paused[b] == 0 and cost > 0 and is_head_on(demand, quota)
      if ask.refuses then
        local available, wait, at_best = quota_shortage(quota, ask, now, wall)
        if fits then wait, at_best = 0, 0 end
        n = n + 1
        violations[n], ask.available, ask.wait, ask.at_best = ask, available, wait, at_best
        ask.alone, ask.place = wait, b
        if not fits and ask.others > 0 then
          alone.cost, alone.capacity = cost, ask.capacity
          alone.ahead = drained(ask.ahead, ask.amount)
          alone.before = drained(ask.before, ask.others)
          local _, without = quota_shortage(quota, alone, now, wall)
          alone.ahead, alone.before, ask.alone = 0, 0, without
        end
        ask.asked = quota_asked(quota, cost, now)
      end
    end
  end
  return violations
end

-- A refused waiter is a head on a quota, and goes before what comes later there. It fits at
-- `due_in`, if that is known; other quotas hold it back for `held_for`.
local function line_up(demand, ask, due_in, held_for)
  local quota, cost, bucket, now = ask.quota, ask.cost, ask.quota.bucket, ask.quota.bucket.now
  local blocks = held_for <= quota_horizon(quota)
  if blocks and not (demand.turn and demand.turn.overtakes and demand.is_behind) then
    go_ahead(quota, demand.headroom, cost, 1)
  end
  if not bucket.is_told then return end
  local arrival, fits = drained(now, demand.age), (ask.refuses and ask.wait == 0) == true
  if are_behind_mine(quota, demand.headroom, demand.flow, 1, cost, arrival, fits) then return end
  add_head(bucket, {
    session = session, quota = quota.id, headroom = demand.headroom, flow = demand.flow,
    space = demand.space.id, waiter = demand.waiter, arrival = arrival, cost = cost,
    part = demand.step, count = 1, sum = cost, last = arrival,
    due = due_in and sum(now, due_in) or 0,
    held_until = sum(now, held_for), is_behind = demand.is_behind,
    outlook = fits and OUTLOOK_FITS or OUTLOOK_BEHIND,
    tag = kept_tag(bucket, demand.waiter), place = arrival,
    heard = heard_now(bucket),
  })
end

-- A refused waiter waits. `due_in` is when it fits, if that is known.
local function line_up_on_all(demand, violations, due_in)
  local is_head, k = false, 0
  if not demand.turn then append_age(demand.told, demand.age) end
  for _, violation in ipairs(violations) do
    if violation.quota and violation.holds then
      is_head = is_head or violation.quota.bucket == demand.space
      line_up(demand, violation, due_in, violation.held_for)
    end
  end
  local lasts = is_head and 0 or due_in and sum(due_in, LATE) or FLOW_MEMORY
  flow_wait(demand.space, demand.flow, sum(demand.space.now, lasts))
  for b, bucket in ipairs(demand.of) do
    for _ = 1, bucket.count do
      k = k + 1
      local ask = demand.asks[k]
      if ask.cost > 0 and demand.paused[b] > 0 and not ask.refuses and not demand.beyond[b] then
        line_up(demand, ask, due_in, 0)
      end
    end
  end
end

-- The first of the demand's buckets in which it waits for calls in flight.
local function stuck_in(violations)
  local stuck = math.huge
  for _, violation in ipairs(violations) do
    if not violation.wait then stuck = min(stuck, violation.place) end
  end
  return stuck
end

-- Of each bucket whether the demand is to keep no place there, being stuck in a narrower one.
local function beyond_of(demand, stuck)
  local beyond, k = {}, 0
  for b, bucket in ipairs(demand.of) do
    beyond[b] = b > stuck
    for _ = 1, bucket.count do
      k = k + 1
      local ask = demand.asks[k]
      if beyond[b] and ask.cost > 0 and has_place_on(demand, ask.quota) then beyond[b] = false end
    end
  end
  return beyond
end

-- Refuses the demand that was measured last, and says why.
function waiting.refuse(demand)
  local violations, is_to_wait = violations_of(demand), demand.mode == WAIT
  local is_known, longest, last, stuck = true, 0, nil, stuck_in(violations)
  local patience = message[demand.first + demand.count + 1]
  demand.step = waiting.demand_step(demand)
  demand.beyond = beyond_of(demand, stuck)
  local beyond = {}
  for index, violation in ipairs(violations) do
    local quota = violation.quota
    if quota then
      beyond[index] = violation.place > stuck and not has_place_on(demand, quota)
    else
      beyond[index] = demand.beyond[violation.place]
    end
  end
  for index, violation in ipairs(violations) do
    local held_for, is_beyond = 0, beyond[index]
    for other, held_by in ipairs(violations) do
      if other ~= index and not beyond[other] then
        held_for = max(held_for, held_by.wait or 0)
      end
    end
    violation.held_for = held_for
    violation.holds = not is_beyond
      and (not violation.quota or held_for <= quota_horizon(violation.quota))
    local wait = not is_beyond and violation.wait or 0
    if not is_beyond and wait >= longest then last = violation end
    if violation.asked or violation.at_best > patience then is_to_wait = false end
    is_known, longest = is_known and violation.wait, max(longest, wait)
  end
  last.holds = true
  demand.is_behind = is_behind(demand)
  if demand.is_behind and has_others(demand) and demand.mode ~= DRY then
    for _, bucket in ipairs(demand.of) do bucket.holds_up = true end
  end
  if is_to_wait then line_up_on_all(demand, violations, is_known and longest) end
  local n = #verdicts + 2
  verdicts[n - 1], verdicts[n] = REFUSED, #violations
  for _, violation in ipairs(violations) do
    verdicts[n + 1], verdicts[n + 2] = violation.by, violation.available
    verdicts[n + 3], verdicts[n + 4] = violation.wait or -1, violation.alone or -1
    verdicts[n + 5], verdicts[n + 6] = violation.at_best, violation.asked or -1
    verdicts[n + 7] = violation.holds and 1 or 0
    verdicts[n + 8], verdicts[n + 9] = violation.rank, violation.others
    n = n + 9
  end
  verdicts[n + 1], verdicts[n + 2] = demand.tag, demand.step
end
