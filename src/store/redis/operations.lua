-- The operations of one batch, one after the other, on states that have been brought to the present.
--
-- Verdicts are numbers: 1 granted, 2 granted as a probe, 3 fits, 4 done, 5 no claim, each followed by how many
-- there are in a row; or one verdict of:
--   6  refused: how many violations, and for each what refused (a rule's index among those of the operation, or
--      -1 less the index of its bucket for a pause), the whole tokens available, the wait (-1 if not
--      known), the wait at best, what is left of a wait that was asked for (-1 if none), whether it holds,
--      its rank, how many go before it; then the tag and the part of its flow;
--   7  status: how many levels, those (see quota_append_level), until when the bucket is paused, the end of a
--      wait that was asked for, how many wait.

local GRANTED = 1
local PROBE = 2
local FITS = 3
local DONE = 4
local NO_CLAIM = 5
local REFUSED = 6
local STATUS = 7

-- Kinds of operations.
local WAIT = 1
local DRY = 3
local CLOSE = 4
local ADJUST = 5
local DETACH = 8
local WAITING = 9

local message, buckets, wall, verdicts = nil, {}, nil, {}

-- What waiters of the session ask of quotas that refused them: per bucket and rule {headroom, amount, demands};
-- false while nothing waits. `headroom` is the least that any of them leaves to others: a demand that leaves
-- less is not behind them.
local ahead = false

-- Settles were made since the last refold.
local edited = false

local function answer(verdict, many)
  local n = #verdicts
  verdicts[n + 1] = verdict
  verdicts[n + 2] = many
end

-- Makes the edits of the settles so far count.
local function refold()
  edited = false
  for b = 1, #buckets do
    local bucket = buckets[b]
    local quotas = bucket.quotas
    for k = 1, bucket.count do
      local quota = quotas[k]
      if quota.edited then
        rare.draining.draining_refold(quota)
        quota.taken = quota.charged
      end
    end
  end
end

-- Reserves on the same buckets. The first one is at index `at` of the message; `tag` is the start tag of its flow,
-- if the operations take turns.
local function reserves(mode, at, many, of, count, headroom, flow, weight, tag)
  local quotas, space, granted, is_plain = of.quotas, of[#of], 0, not ahead
  for b = 1, #of do is_plain = is_plain and of[b].is_plain end
  for first = at + 1, at + 1 + (many - 1) * (count + 2), count + 2 do
    if edited then refold() end
    local fits, demand = is_plain, nil
    if is_plain then
      for k = 1, count do
        local quota, cost = quotas[k], message[first + k]
        local room = quota.room
        if headroom > 0 and cost > 0 then
          room = product(rare.classes.less_headroom(quota.whole, headroom), quota.units)
        end
        if quota.taken + cost * quota.units > room then
          fits = false
          break
        end
      end
    end
    if not fits then
      demand = rare.waiting.demand_at(mode, first, of, quotas, count, headroom, flow, weight, tag)
      fits = not is_plain and rare.waiting.demand_fits(demand)
    end
    if fits and mode ~= DRY then
      local is_probe = false
      for b = 1, #of do
        if not of[b].own then rare.changes.bucket_enter(of[b]) end
        if of[b].gate and rare.provider.gate_grant(of[b].gate, of[b].now) then is_probe = true end
      end
      for k = 1, count do
        local quota, cost = quotas[k], message[first + k]
        quota_reserve(quota, cost)
        if quota.cap and cost > 0 and rare.provider.gate_grant(quota.cap, quota.bucket.now) then is_probe = true end
      end
      if space.flow_count > 0 then
        demand = demand or rare.waiting.demand_at(mode, first, of, quotas, count, headroom, flow, weight, tag)
        rare.waiting.flow_serve(space, flow, demand.step)
      end
      if is_probe then
        if granted > 0 then answer(GRANTED, granted) end
        answer(PROBE, 1)
        granted = 0
      else
        granted = granted + 1
      end
    else
      if granted > 0 then answer(GRANTED, granted) end
      granted = 0
      if fits then answer(FITS, 1) else rare.waiting.refuse(demand) end
      is_plain = is_plain and not ahead
    end
  end
  if granted > 0 then answer(GRANTED, granted) end
end

-- Settles of the session on the same buckets.
local function settles(at, many, of, count, close)
  local n = #of
  for b = 1, n do
    if not of[b].own then rare.changes.bucket_enter(of[b]) end
  end
  for first = at, at + (many - 1) * (n + 2 * count), n + 2 * count do
    local i = first + n
    for b = 1, n do
      local bucket, granted_at = of[b], message[first + b - 1]
      -- A late settle must not take what its session has reserved since.
      local stands, quotas = granted_at >= bucket.own.since, bucket.quotas
      for k = 1, bucket.count do
        local quota, reserved = quotas[k], message[i]
        local share = quota.share
        local in_flight = stands and (reserved < share and reserved or share) or 0
        local open = quota_settle(quota, granted_at, reserved, message[i + count], in_flight, close)
        share = share - in_flight + open
        quota.share = share < MAX_TAKEN and share or MAX_TAKEN
        i = i + 1
      end
    end
  end
  edited = true
  answer(DONE, many)
end

-- Operations of one kind that follow each other: see arguments.lua.
local function perform(kind, at, many, of, count, x, y, z, tag)
  if kind <= DRY then
    reserves(kind, at, many, of, count, x, y, z, tag)
  elseif kind <= ADJUST then
    settles(at, many, of, count, kind == CLOSE)
  elseif kind <= DETACH then
    for _ = 1, many do at = rare.changes.perform_of_claim(kind, at, of, count, x, y) end
  elseif kind == WAITING then
    rare.waiting.wait(of, at)
  else
    rare.provider.perform_of_provider(kind, at, of)
  end
end

-- How many numbers operations have that are about one bucket.
local SIZE_OF_KIND = {[10] = 3, [11] = 8, [12] = 3, [13] = 6, [14] = 2}

-- Calls `perform` for the operations in the message from index `at` on.
local function each_run(at, last, perform)
  while at <= last do
    local kind = message[at]
    if kind <= DETACH then
      local many, n, of, count = message[at + 1], message[at + 5], {}, 0
      local x, y, z = message[at + 2], message[at + 3], message[at + 4]
      at = at + 5
      for b = 1, n do
        of[b] = buckets[message[at + b] + 1]
        count = count + of[b].count
      end
      at = at + n + 1
      -- The quotas of these buckets, in a row.
      of.quotas = of[1].quotas
      if n > 1 then
        local quotas, k = {}, 0
        for b = 1, n do
          for rule = 1, of[b].count do
            k = k + 1
            quotas[k] = of[b].quotas[rule]
          end
        end
        of.quotas = quotas
      end
      perform(kind, at, many, of, count, x, y, z)
      local size = kind <= DRY and count + 2 or kind < DETACH and n + 2 * count or count
      at = at + many * size
    else
      perform(kind, at + 2, 1, buckets[message[at + 1] + 1], 0)
      at = at + (SIZE_OF_KIND[kind] or 3 + 11 * message[at + 2])
    end
  end
end

-- RARE waiting

-- Where grants come faster than round trips, strict order over processes would let all of them wait for each
-- other: there a session may grant what arrived this much after another one's head, and more where many wait.
local TOLERANCE = 20000
local TOLERANCE_PER_HEAD = 2000

-- A head counts for the order of flows with this many of a session's groups on a quota at most.
local MAX_LINES = 4

-- The reserve whose costs follow index `first` of the message. `step` is how far it moves its flow on: the part of
-- its last bucket's limits that it takes, by its weight.
function waiting.demand_at(mode, first, of, quotas, count, headroom, flow, weight, tag)
  local space, part = of[#of], 0
  for k = count - space.count + 1, count do
    local part_of_quota = message[first + k] / max(quotas[k].whole, 1)
    if part_of_quota > part then part = part_of_quota end
  end
  return {
    mode = mode, first = first, of = of, quotas = quotas, count = count, headroom = headroom, flow = flow,
    waiter = message[first - 1], age = message[first], space = space, step = part / max(weight, 1),
    tag = tag or start_of(space, flow, space.id),
  }
end

-- By how much a waiter may have come after a head of another session and go before it.
local function tolerance_on(quota, of_session)
  local bucket, oldest, live = quota.bucket, nil, 0
  if quota.kind ~= DRAINING then return 0 end
  for _, head in ipairs(bucket.heads) do
    if head_is_live(head, of_session, quota.id, bucket.now) then
      oldest, live = oldest or head, live + 1
    end
  end
  if not oldest then return 0 end
  local capacity = capacity_for(quota, oldest.cost, oldest.headroom)
  local ask = {cost = oldest.cost, ahead = 0, before = 0, capacity = capacity}
  local _, wait = quota_shortage(quota, ask, bucket.now, wall)
  return wait and wait < TOLERANCE and max(TOLERANCE, TOLERANCE_PER_HEAD * live) or 0
end

-- What heads of other sessions go before a demand on a quota: what they ask, how many demands, how many heads.
local function before(demand, quota)
  local bucket, space = quota.bucket, demand.space
  if not bucket.heads then return 0, 0, 0 end
  local of_session = bucket.is_told and session or -1
  local is_head = demand.mode == WAIT and demand.waiter > 0
  local place = {
    session = of_session, tie = is_head and session or math.huge, headroom = demand.headroom,
    flow = demand.flow, space = space.id, bucket = space, tag = demand.tag,
    arrival = heads_arrival(bucket, demand.waiter, demand.age),
  }
  -- What does not wait passes no head.
  return heads_before(bucket, place, quota, demand.mode == WAIT and tolerance_on(quota, of_session) or 0)
end

-- What a demand asks of quota `k` of its own, the `rule`-th of a bucket: {cost, ahead, before, capacity}.
local function asked_of(demand, k, bucket, rule)
  local quota, cost = demand.quotas[k], message[demand.first + k]
  local capacity = capacity_for(quota, cost, demand.headroom)
  if not ahead and not bucket.heads then return {cost = cost, ahead = 0, before = 0, capacity = capacity} end
  local amount, demands = before(demand, quota)
  local mine = ahead and ahead[bucket] and ahead[bucket][rule]
  if mine and demand.headroom >= mine.headroom then
    amount, demands = sum(amount, mine.amount), sum(demands, mine.demands)
  end
  -- More than a few windows ahead makes no difference to an answer, and amounts stay exact.
  return {cost = cost, ahead = min(amount, 4 * quota.whole), before = demands, capacity = capacity}
end

-- For how long a pause of a bucket holds back a demand there, whose first quota is the `k`-th.
local function paused_for(demand, bucket, k)
  if not bucket.gate then return 0 end
  local most = 0
  for rule = 1, bucket.count do
    if message[demand.first + k + rule - 1] > 0 then
      most = max(most, asked_of(demand, k + rule - 1, bucket, rule).before)
    end
  end
  return rare.provider.gate_wait(bucket.gate, most, bucket.now)
end

function waiting.demand_fits(demand)
  local k = 1
  for _, bucket in ipairs(demand.of) do
    for rule = 1, bucket.count do
      local i = k + rule - 1
      if not quota_fits(demand.quotas[i], asked_of(demand, i, bucket, rule), bucket.now) then return false end
    end
    if paused_for(demand, bucket, k) > 0 then return false end
    k = k + bucket.count
  end
  return true
end

-- Whether a refused waiter keeps its place on a quota where it would fit now: one that refused it before. Otherwise
-- streams on this quota alone and on that alone would starve what needs both.
local function keeps(demand, quota, cost)
  return demand.mode == WAIT and demand.waiter > 0 and cost > 0
    and heads_find(quota.bucket, session, quota.id, demand.waiter)
end

-- The reasons of a refusal, and the quotas where the demand keeps its place.
local function violations_of(demand)
  local violations, k = {}, 1
  for index, bucket in ipairs(demand.of) do
    local wait = paused_for(demand, bucket, k)
    if wait > 0 then
      violations[#violations + 1] = {
        bucket = bucket, by = -index, available = 0, wait = wait, at_best = wait,
        asked = rare.provider.gate_asked(bucket.gate, bucket.now), holds = true, rank = 0, before = 0,
      }
    end
    k = k + bucket.count
  end
  k = 0
  for _, bucket in ipairs(demand.of) do
    local now = bucket.now
    for rule = 1, bucket.count do
      k = k + 1
      local quota, ask = demand.quotas[k], asked_of(demand, k, bucket, rule)
      local fits = quota_fits(quota, ask, now)
      if not fits or keeps(demand, quota, ask.cost) then
        local _, demands, heads = before(demand, quota)
        local available, wait, at_best = quota_shortage(quota, ask, now, wall)
        if fits then wait, at_best = 0, 0 end
        violations[#violations + 1] = {
          bucket = bucket, quota = quota, rule = rule, cost = ask.cost, by = k - 1, available = available,
          wait = wait, at_best = at_best, asked = quota_asked(quota, ask.cost, now), holds = true,
          rank = heads, before = demands,
        }
      end
    end
  end
  return violations
end

local function go_ahead(bucket, rule, headroom, amount, demands)
  ahead = ahead or {}
  ahead[bucket] = ahead[bucket] or {}
  local known = ahead[bucket][rule]
  if not known then
    ahead[bucket][rule] = {headroom = headroom, amount = amount, demands = demands}
    return
  end
  known.amount, known.demands = sum(known.amount, amount), sum(known.demands, demands)
  known.headroom = min(known.headroom, headroom)
end

-- Adds a head of the session, or a waiter behind one.
local function add_head(bucket, head)
  local groups = 0
  bucket.mine = bucket.mine or {}
  for _, other in ipairs(bucket.mine) do
    if other.quota == head.quota then
      if other.headroom == head.headroom and other.flow == head.flow then
        other.count, other.sum = sum(other.count, head.count), sum(other.sum, head.sum)
        other.last = max(other.last, head.last)
        return
      end
      groups = groups + 1
    end
  end
  if groups < MAX_LINES then bucket.mine[#bucket.mine + 1] = head end
end

-- A refused waiter goes before what comes later on a quota, and is a head there. It fits at `due`; other quotas
-- hold it back for `held_for`.
local function line_up(demand, quota, rule, cost, due_in, held_for, holds)
  local bucket, now = quota.bucket, quota.bucket.now
  if holds then go_ahead(bucket, rule, demand.headroom, cost, 1) end
  if not bucket.is_told then return end
  local arrival = heads_arrival(bucket, demand.waiter, demand.age)
  add_head(bucket, {
    session = session, quota = quota.id, headroom = demand.headroom, flow = demand.flow,
    space = demand.space.id, waiter = demand.waiter, arrival = arrival, cost = cost, part = demand.step,
    count = 1, sum = cost, last = arrival, due = due_in and sum(now, due_in) or 0,
    held_until = sum(now, held_for),
  })
end

-- What a pause of a bucket holds back is a head on all quotas of the bucket that it needs: those that did not
-- refuse it.
local function line_up_behind_pauses(demand, violations, due_in)
  local is_paused, is_refused, k = {}, {}, 0
  for _, violation in ipairs(violations) do
    if violation.quota then is_refused[violation.quota] = true else is_paused[violation.bucket] = true end
  end
  for _, bucket in ipairs(demand.of) do
    for rule = 1, bucket.count do
      k = k + 1
      local quota, cost = demand.quotas[k], message[demand.first + k]
      if cost > 0 and is_paused[bucket] and not is_refused[quota] then
        line_up(demand, quota, rule, cost, due_in, 0, true)
      end
    end
  end
end

function waiting.refuse(demand)
  local violations, is_to_wait, is_known, longest = violations_of(demand), demand.mode == WAIT, true, 0
  for index, violation in ipairs(violations) do
    -- For how long the others hold it back.
    local held_for = 0
    for other, held_by in ipairs(violations) do
      if other ~= index then held_for = max(held_for, held_by.wait or 0) end
    end
    violation.held_for = held_for
    if violation.quota then violation.holds = held_for <= quota_horizon(violation.quota) end
    if violation.asked then is_to_wait = false end
    is_known, longest = is_known and violation.wait, max(longest, violation.wait or 0)
  end
  if is_to_wait then
    local due_in = is_known and longest
    for _, violation in ipairs(violations) do
      local quota = violation.quota
      if quota then
        line_up(demand, quota, violation.rule, violation.cost, due_in, violation.held_for, violation.holds)
      end
    end
    line_up_behind_pauses(demand, violations, due_in)
  end
  local n = #verdicts + 2
  verdicts[n - 1], verdicts[n] = REFUSED, #violations
  for _, violation in ipairs(violations) do
    verdicts[n + 1], verdicts[n + 2], verdicts[n + 3] = violation.by, violation.available, violation.wait or -1
    verdicts[n + 4], verdicts[n + 5] = violation.at_best, violation.asked or -1
    verdicts[n + 6], verdicts[n + 7] = violation.holds and 1 or 0, violation.rank
    verdicts[n + 8] = violation.before
    n = n + 8
  end
  verdicts[n + 1], verdicts[n + 2] = demand.tag, demand.step
end

-- Lines of waiters that are not in the batch: see arguments.lua.
function waiting.wait(bucket, at)
  local now = bucket.now
  for i = at + 1, at + 11 * message[at], 11 do
    local rule = message[i] + 1
    local quota, waiter, arrival = bucket.quotas[rule], message[i + 4], drained(now, message[i + 5])
    if rule <= bucket.count then
      local head = {
        session = session, quota = quota.id, headroom = message[i + 1], flow = message[i + 2],
        space = message[i + 3], waiter = waiter, arrival = arrival, cost = message[i + 6],
        part = message[i + 7], count = message[i + 8], sum = message[i + 9],
        last = drained(now, message[i + 10]),
        -- It was not looked at: its session is about to.
        due = now, held_until = 0,
      }
      local known = heads_find(bucket, session, quota.id, waiter)
      if known then
        head.arrival, head.due, head.held_until = known.arrival, known.due, known.held_until
        head.last = max(head.last, known.arrival)
      end
      if head_holds(head, quota_horizon(quota), now) then
        go_ahead(bucket, rule, head.headroom, head.sum, head.count)
      end
      add_head(bucket, head)
    end
  end
  answer(DONE, 1)
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

-- Applies the operations in such an order that flows of one space and class take turns. Returns false if that is as
-- they come, and then does nothing.
function waiting.perform_in_turns(first, last)
  local ops, has_flows, moved, groups, in_order = {}, false, {}, {}, {}
  each_run(first, last, function(kind, at, many, of, count, x, y, z)
    local size = kind <= DRY and count + 2 or kind < DETACH and #of + 2 * count or count
    for n = 0, many - 1 do
      ops[#ops + 1] = {kind = kind, at = at + n * size, of = of, count = count, x = x, y = y, z = z, i = #ops + 1}
    end
    if kind == WAIT and (y ~= 0 or of[#of].flow_count > 0) then has_flows = true end
  end)
  if not has_flows then return false end
  for i, op in ipairs(ops) do
    if op.kind == WAIT then
      local space, flow, headroom = op.of[#op.of], op.y, op.x
      local demand = waiting.demand_at(WAIT, op.at + 1, op.of, op.of.quotas, op.count, headroom, flow, op.z, 0)
      local of_space = moved[space] or {}
      moved[space] = of_space
      op.tag = of_space[flow] or start_of(space, flow, space.id)
      of_space[flow] = op.tag + demand.step
      local groups_of_space = groups[space] or {}
      groups[space] = groups_of_space
      local group = groups_of_space[headroom] or {}
      groups_of_space[headroom] = group
      group[#group + 1] = op
    end
    in_order[i] = op
  end
  for _, of_space in pairs(groups) do
    for _, group in pairs(of_space) do
      local sorted = sort_by(group, function(op) return op.tag end)
      for place, op in ipairs(group) do in_order[op.i] = sorted[place] end
    end
  end
  for _, op in ipairs(in_order) do
    verdicts = {}
    perform(op.kind, op.at, 1, op.of, op.count, op.x, op.y, op.z, op.tag)
    op.verdicts = verdicts
  end
  verdicts = {}
  for _, op in ipairs(ops) do
    for _, number in ipairs(op.verdicts) do verdicts[#verdicts + 1] = number end
  end
  return true
end

-- Replaces the session's heads in a bucket by those of the batch.
function waiting.stand(bucket)
  local mine, starts = bucket.mine or {}, {}
  local needs_flows = bucket.flow_count > 0
  for _, head in ipairs(mine) do
    if head.flow ~= 0 and head.space == bucket.id then needs_flows = true end
  end
  if needs_flows then
    for i, head in ipairs(mine) do
      if head.space == bucket.id then starts[i] = start_of(bucket, head.flow, bucket.id) end
    end
    for i, head in ipairs(mine) do
      if starts[i] then flow_set(bucket, head.flow, starts[i]) end
    end
  end
  -- The end of its lease takes its heads along.
  if #mine > 0 then rare.changes.bucket_enter(bucket) end
  if bucket.own then bucket.own.waits = #mine > 0 and 1 or 0 end
  if #mine > 0 or bucket.heads then waiting.heads_replace(bucket, session, mine) end
end

-- All heads on a quota.
local function heads_on(quota)
  local heads = {}
  for _, head in ipairs(quota.bucket.heads) do
    if head_is_live(head, -1, quota.id, quota.bucket.now) then heads[#heads + 1] = head end
  end
  return heads
end

-- The heads at the front of a quota that fit together.
local function front_of(quota)
  local bucket, heads, front, amount = quota.bucket, {}, {}, 0
  local now, horizon = bucket.now, quota_horizon(quota)
  for _, head in ipairs(bucket.heads) do
    if head_is_live(head, -1, quota.id, now) and head_holds(head, horizon, now) then heads[#heads + 1] = head end
  end
  if bucket.flow_count > 0 then
    heads = sort_by(heads, function(head) return start_of(bucket, head.flow, bucket.id) end)
  end
  for n, head in ipairs(heads) do
    local capacity = capacity_for(quota, head.cost, head.headroom)
    local ask = {cost = head.cost, ahead = amount, before = n - 1, capacity = capacity}
    if not quota_fits(quota, ask, now) or bucket.gate and rare.provider.gate_wait(bucket.gate, n - 1, now) > 0 then break end
    front[n], amount = head, sum(amount, head.cost)
  end
  return front
end

-- Wakes the heads of other sessions at the front of each quota of a bucket, as far as all of them fit; all heads if
-- the batch has changed when they may pass. Each session is expected to come back at once, and told so if
-- it was not yet.
function waiting.wake(bucket, channel, command)
  local woken, now = {}, bucket.now
  local function publish(of_session)
    local to = channel .. string.format('%.0f', of_session)
    if channel ~= '' then redis.pcall(command, to, bucket.key) end -- PUBLISH
  end
  for k = 1, bucket.count do
    local quota = bucket.quotas[k]
    for _, head in ipairs(bucket.is_stirred and heads_on(quota) or front_of(quota)) do
      local known = head.session ~= session and heads_find(bucket, head.session, quota.id, head.waiter)
      if known and (known.due == 0 or known.due > now) then
        known.due, bucket.heads_changed, bucket.rare = now, true, true
        if not woken[head.session] then publish(head.session) end
        woken[head.session] = true
      end
    end
  end
end

-- RARE provider

local function status(bucket)
  local now, asked = bucket.now, bucket.gate and provider.gate_asked(bucket.gate, bucket.now)
  verdicts[#verdicts + 1] = STATUS
  verdicts[#verdicts + 1] = bucket.count
  for k = 1, bucket.count do quota_append_level(bucket.quotas[k], verdicts, now, wall) end
  local n = #verdicts
  verdicts[n + 1] = bucket.gate and gate_paused_until(bucket.gate, now) or 0
  verdicts[n + 2] = asked and sum(now, asked) or 0
  verdicts[n + 3] = waiting_in(bucket)
end

-- An operation that is about one bucket: see arguments.lua.
function provider.perform_of_provider(kind, at, bucket)
  local now = bucket.now
  local function quota_of(id)
    for k = 1, bucket.count do
      if bucket.quotas[k].id == id then return bucket.quotas[k] end
    end
  end
  bucket.is_plain, bucket.rare, bucket.has_gates = false, true, true
  if kind == 10 then
    if message[at] == 0 then
      bucket_resume(bucket)
    else
      local gate = bucket_gate(bucket)
      gate.until_then = max(gate.until_then, sum(now, message[at]))
    end
  elseif kind == 11 then
    local refusal =
      {at = message[at + 2], asked = message[at + 3], lasts = message[at + 4], longest = message[at + 5]}
    -- What waits is to be refused at once.
    if refusal.asked > refusal.lasts then bucket.is_stirred = true end
    if message[at] == 0 then
      gate_refuse(bucket_gate(bucket), refusal, now)
    else
      local quota = quota_of(message[at + 1])
      if quota then quota_refuse(quota, refusal, now) end
    end
  elseif kind == 12 then
    if bucket_answered_well(bucket, message[at]) then bucket.is_stirred = true end
  else
    if edited then refold() end
    if kind == 13 then
      local quota = quota_of(message[at])
      if quota then quota_withhold(quota, message[at + 1], message[at + 2], message[at + 3], now, wall) end
    else
      return status(bucket)
    end
  end
  answer(DONE, 1)
end

-- RARE changes

-- Settles a claim, or detaches: see arguments.lua. Returns the index after it.
function changes.perform_of_claim(kind, at, of, count, claim, lease)
  if kind == DETACH then
    for _, bucket in ipairs(of) do
      bucket_detach(bucket, claim, message, at - 1, lease, wall)
      at = at + bucket.count
    end
    answer(DONE, 1)
    return at
  end
  local first = at
  at = at + #of
  for _, bucket in ipairs(of) do
    if not changes.bucket_record(bucket, claim) then
      answer(NO_CLAIM, 1)
      return at + 2 * count
    end
  end
  edited = true
  for b, bucket in ipairs(of) do
    local shares = changes.bucket_record(bucket, claim).shares
    for k = 1, bucket.count do
      local quota, reserved, actual = bucket.quotas[k], message[at], message[at + count]
      local share = shares[quota.id] or 0
      -- A claim is younger than its grant, and settles no more than it holds.
      local in_flight = min(reserved, share)
      local open = quota_settle(quota, message[first + b - 1], in_flight, actual, in_flight, kind == 6)
      shares[quota.id] = min(share - in_flight + open, MAX_TAKEN)
      at = at + 1
    end
    if kind == 6 then bucket_end_claim(bucket, claim) end
  end
  answer(DONE, 1)
  return at + count
end
