-- The operations of one batch, one after the other, on states that have been brought to the
-- present.
--
-- Verdicts are numbers: 1 granted, 2 granted as a probe, 3 fits, 4 done, 5 no claim, each followed
-- by how many there are in a row; or one verdict of:
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

local buckets, wall, verdicts = {}, nil, {}

-- What waiters of the session ask of quotas that refused them: per bucket and rule a list of
-- {headroom, amount, demands}, one for each class; false while nothing waits. A demand that leaves
-- less to others is not behind them.
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

-- Reserves on the same buckets, at index `at` of the message; `turn` is what they are measured by,
-- if the operations take turns.
local function reserves(mode, at, many, of, count, headroom, flow, weight, turn)
  local quotas, space, granted, is_plain = of.quotas, of[#of], 0, not ahead
  for b = 1, #of do is_plain = is_plain and of[b].is_plain end
  if edited then refold() end
  local asked = is_plain and mode ~= DRY and space.flow_count == 0
    and quotas_fit(quotas, at, many, count, headroom)
  if asked then
    for b = 1, #of do
      if not of[b].own then rare.changes.bucket_enter(of[b]) end
    end
    for k = 1, count do quota_reserve(quotas[k], asked[k]) end
    return answer(GRANTED, many)
  end
  -- One after the other: each has its age at index `first`, and its costs behind.
  local width = count + 2
  at = rare.rows.singly(at, many, width)
  for first = at + 2 * width + 1, at + 3 * width * many, 3 * width do
    if edited then refold() end
    local fits, demand = false, nil
    if is_plain then fits = quotas_fit(quotas, first - 1 - 2 * width, 1, count, headroom) end
    if not fits then
      demand = rare.waiting.demand_at(mode, first, of, quotas, count, headroom, flow, weight, turn)
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
        demand = demand or rare.waiting.demand_at(mode, first, of, quotas, count, headroom, flow, weight, turn)
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

-- Settles of the session on the same buckets: all of them on one quota after the other.
local function settles(at, many, of, count, close)
  local reserved = at + 2 * #of
  for b = 1, #of do
    local bucket, first, oldest = of[b], message[at], MAX_AMOUNT
    local own, quotas = bucket.own or rare.changes.bucket_enter(bucket), bucket.quotas
    for i = first, first + message[at + 1] * (many - 1) do
      if message[i] < oldest then oldest = message[i] end
    end
    for k = 1, bucket.count do
      local actual = reserved + 2 * count
      -- A late settle must not take what its session has reserved since.
      quota_settle(quotas[k], many, at, reserved, actual, oldest, own.since, close)
      reserved = reserved + 2
    end
    at = at + 2
  end
  edited = true
  answer(DONE, many)
end

-- Operations of one kind that follow each other: see arguments.lua.
local function perform(kind, at, many, of, count, x, y, z, turn)
  if kind <= DRY then
    reserves(kind, at, many, of, count, x, y, z, turn)
  elseif kind <= ADJUST then
    settles(at, many, of, count, kind == CLOSE)
  elseif kind <= DETACH then
    rare.changes.perform_of_claim(kind, at, of, count, x, y)
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
      local many, n, of, count = message[at + 1], message[at + 6], {}, 0
      local x, y, z, size = message[at + 2], message[at + 3], message[at + 4], message[at + 5]
      at = at + 6
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
      at = at + size
    else
      perform(kind, at + 2, 1, buckets[message[at + 1] + 1], 0)
      at = at + (SIZE_OF_KIND[kind] or 3 + 11 * message[at + 2])
    end
  end
end

-- RARE waiting

-- Where grants come faster than round trips, strict order over processes would let all of them wait
-- for each other: there a session may grant what arrived this much after another one's head, and
-- more where many wait.
local TOLERANCE = 20000
local TOLERANCE_PER_HEAD = 2000

-- A head counts for the order of flows with this many of a session's groups on a quota at most.
local MAX_LINES = 4

-- How long ago the waiting reserves so far arrived: what the session says and what counts, in
-- turns.
local ages = {}

local function append_age(told, age)
  ages[#ages + 1], ages[#ages + 2] = told, age
end

-- How long ago a waiter arrived, no longer than those before it which are older as the session
-- says.
local function behind_older(told, age)
  for i = 1, #ages, 2 do
    if ages[i] >= told then age = min(age, ages[i + 1]) end
  end
  return age
end

-- How long ago a demand arrived that comes in its own place, `told` ago as its session says. A head
-- that comes back keeps its arrival, and has the same in all buckets: what its session says depends
-- on how long a batch took. The waiters of a session keep their order.
local function age_of(mode, of, waiter, told)
  local age = nil
  for _, bucket in ipairs(of) do
    local arrival = heads_arrival(bucket, waiter)
    if arrival then age = max(age or 0, drained(bucket.now, arrival)) end
  end
  age = age or told
  return mode == WAIT and behind_older(told, age) or age
end

-- The reserve whose costs follow index `first` of the message. `step` is how far it moves its flow
-- on: the part of its last bucket's limits that it takes, by its weight. Where the operations take
-- turns, `turn` is {age, tag, overtakes}, the last if it comes before an older one since its flow
-- is next.
function waiting.demand_at(mode, first, of, quotas, count, headroom, flow, weight, turn)
  local space, part, waiter, told = of[#of], 0, message[first - 1], message[first]
  for k = count - space.count + 1, count do
    local part_of_quota = message[first + k] / max(quotas[k].whole, 1)
    if part_of_quota > part then part = part_of_quota end
  end
  return {
    mode = mode, first = first, of = of, quotas = quotas, count = count, headroom = headroom, flow = flow,
    waiter = waiter, told = told, age = turn and turn.age or age_of(mode, of, waiter, told),
    space = space, step = part / max(weight, 1), tag = turn and turn.tag or start_of(space, flow, space.id),
    is_in_turn = turn and turn.tag, overtakes = turn and turn.overtakes, starts = {},
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

-- What heads of other sessions go before a demand on a quota: what they ask, how many demands, how
-- many heads.
local function before(demand, quota)
  local bucket, space = quota.bucket, demand.space
  if not bucket.heads then return 0, 0, 0 end
  local of_session = bucket.is_told and session or -1
  local is_head = demand.mode == WAIT and demand.waiter > 0
  local place = {
    session = of_session, tie = is_head and session or math.huge, headroom = demand.headroom,
    flow = demand.flow, space = space.id, bucket = space, tag = demand.tag, starts = demand.starts,
    arrival = drained(bucket.now, demand.age),
  }
  -- What does not wait passes no head.
  return heads_before(bucket, place, quota, demand.mode == WAIT and tolerance_on(quota, of_session) or 0)
end

-- What a demand asks of quota `k` of its own, the `rule`-th of a bucket: {cost, ahead, before,
-- capacity}.
local function asked_of(demand, k, bucket, rule)
  local quota, cost = demand.quotas[k], message[demand.first + k]
  local capacity = capacity_for(quota, cost, demand.headroom)
  if not ahead and not bucket.heads then return {cost = cost, ahead = 0, before = 0, capacity = capacity} end
  local amount, demands = before(demand, quota)
  for _, mine in ipairs(ahead and ahead[bucket] and ahead[bucket][rule] or {}) do
    if mine.headroom <= demand.headroom then
      amount, demands = sum(amount, mine.amount), sum(demands, mine.demands)
    end
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

-- Whether a refused waiter keeps its place on a quota where it would fit now: one that refused it
-- before. Otherwise streams on this quota alone and on that alone would starve what needs both.
local function keeps(demand, quota, cost)
  return demand.mode == WAIT and demand.waiter > 0 and cost > 0
    and heads_find(quota.bucket, session, quota.id, demand.waiter)
end

-- Whether a demand fits on a quota if nothing goes before it.
local function fits_alone(quota, cost, headroom)
  local ask = {cost = cost, ahead = 0, before = 0, capacity = capacity_for(quota, cost, headroom)}
  return quota_fits(quota, ask, quota.bucket.now)
end

-- Whether a refused waiter would fit if nothing went before it.
local function is_behind(demand)
  for _, bucket in ipairs(demand.of) do
    if bucket.gate and rare.provider.gate_wait(bucket.gate, 0, bucket.now) > 0 then return false end
  end
  for k = 1, demand.count do
    if not fits_alone(demand.quotas[k], message[demand.first + k], demand.headroom) then return false end
  end
  return true
end

-- What goes before a demand that a pause of a bucket holds back: how many demands, how many heads.
-- Its first quota there is the `k`-th.
local function before_paused(demand, bucket, k)
  local most, rank = 0, 0
  for rule = 1, bucket.count do
    if message[demand.first + k + rule - 1] > 0 then
      local _, demands, heads = before(demand, demand.quotas[k + rule - 1])
      if demands >= most then most, rank = demands, heads end
    end
  end
  return most, rank
end

-- The reasons of a refusal, and the quotas where the demand keeps its place.
local function violations_of(demand)
  local violations, is_paused, k = {}, {}, 1
  for index, bucket in ipairs(demand.of) do
    local wait = paused_for(demand, bucket, k)
    if wait > 0 then
      local demands, rank = before_paused(demand, bucket, k)
      is_paused[bucket] = true
      violations[#violations + 1] = {
        bucket = bucket, by = -index, available = 0, wait = wait, at_best = wait,
        asked = rare.provider.gate_asked(bucket.gate, bucket.now), holds = true, rank = rank,
        before = demands,
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
      if not fits or not is_paused[bucket] and keeps(demand, quota, ask.cost) then
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
  local classes = ahead[bucket][rule] or {}
  ahead[bucket][rule] = classes
  for _, class in ipairs(classes) do
    if class.headroom == headroom then
      class.amount, class.demands = sum(class.amount, amount), sum(class.demands, demands)
      return
    end
  end
  classes[#classes + 1] = {headroom = headroom, amount = amount, demands = demands}
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

-- A refused waiter goes before what comes later on a quota, and is a head there. It fits at `due`;
-- other quotas hold it back for `held_for`.
local function line_up(demand, quota, rule, cost, due_in, held_for, holds)
  local bucket, now = quota.bucket, quota.bucket.now
  -- Those that it overtakes need not wait for it while it waits for others.
  if holds and not (demand.overtakes and demand.is_behind) then
    go_ahead(bucket, rule, demand.headroom, cost, 1)
  end
  if not bucket.is_told then return end
  local arrival = drained(now, demand.age)
  add_head(bucket, {
    session = session, quota = quota.id, headroom = demand.headroom, flow = demand.flow,
    space = demand.space.id, waiter = demand.waiter, arrival = arrival, cost = cost, part = demand.step,
    count = 1, sum = cost, last = arrival, due = due_in and sum(now, due_in) or 0,
    held_until = sum(now, held_for), is_behind = demand.is_behind, fits = false,
  })
end

-- What a pause of a bucket holds back is a head on all quotas of the bucket that it needs: those
-- that did not refuse it.
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
    if not demand.is_in_turn then append_age(demand.told, demand.age) end
    local due_in, is_head = is_known and longest, false
    demand.is_behind = is_behind(demand)
    for _, violation in ipairs(violations) do
      local quota = violation.quota
      if quota then
        is_head = is_head or violation.bucket == demand.space
        line_up(demand, quota, violation.rule, violation.cost, due_in, violation.held_for, violation.holds)
      end
    end
    -- Where it is a head of the bucket itself, that says how long it waits.
    local lasts = is_head and 0 or due_in and sum(due_in, LATE) or FLOW_MEMORY
    flow_wait(demand.space, demand.flow, sum(demand.space.now, lasts))
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
    local quota, waiter, age = bucket.quotas[rule], message[i + 4], message[i + 5]
    if rule <= bucket.count then
      local head = {
        session = session, quota = quota.id, headroom = message[i + 1], flow = message[i + 2],
        space = message[i + 3], waiter = waiter, arrival = drained(now, age), cost = message[i + 6],
        part = message[i + 7], count = message[i + 8], sum = message[i + 9],
        last = drained(now, message[i + 10]),
        -- It was not looked at: its session is about to.
        due = now, held_until = 0, fits = false,
        -- It is not sent though it may fit: others of its session go before it.
        is_behind = fits_alone(quota, message[i + 6], message[i + 1]),
      }
      local known = heads_find(bucket, session, quota.id, waiter)
      if known then
        head.arrival, head.due, head.held_until = known.arrival, known.due, known.held_until
        head.fits = known.fits
      end
      head.arrival = drained(now, behind_older(age, drained(now, head.arrival)))
      head.last = max(head.last, head.arrival)
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

-- Applies the operations in such an order that flows of one space and class take turns. Returns
-- false if that is as they come, and then does nothing.
function waiting.perform_in_turns(first, last)
  local ops, has_flows, moved, groups, in_order = {}, false, {}, {}, {}
  each_run(first, last, function(kind, at, many, of, count, x, y, z)
    local size = kind <= DRY and count + 2 or #of + 2 * count
    if many > 1 then at = rare.rows.singly(at, many, size) end
    for n = 0, many - 1 do
      ops[#ops + 1] = {
        kind = kind, at = at + 3 * n * size, of = of, count = count, x = x, y = y, z = z, i = #ops + 1,
      }
    end
    if kind == WAIT and (y ~= 0 or of[#of].flow_count > 0) then has_flows = true end
  end)
  if not has_flows then return false end
  for i, op in ipairs(ops) do
    if op.kind == WAIT then
      local space, flow, headroom = op.of[#op.of], op.y, op.x
      local turn = {tag = 0, age = 0}
      local first = message[op.at] + 1
      local demand = waiting.demand_at(WAIT, first, op.of, op.of.quotas, op.count, headroom, flow, op.z, turn)
      op.age = age_of(WAIT, op.of, demand.waiter, demand.told)
      append_age(demand.told, op.age)
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
  local oldest_after = math.huge
  for place = #in_order, 1, -1 do
    local op = in_order[place]
    op.overtakes = oldest_after < op.i
    oldest_after = min(oldest_after, op.i)
  end
  for _, op in ipairs(in_order) do
    verdicts = {}
    perform(op.kind, op.at, 1, op.of, op.count, op.x, op.y, op.z, op)
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
  local mine = bucket.mine or {}
  for _, head in ipairs(mine) do
    if head.space == bucket.id then flow_wait(bucket, head.flow, bucket.now) end
  end
  -- The end of its lease takes its heads along.
  if #mine > 0 then rare.changes.bucket_enter(bucket) end
  if bucket.own then rare.changes.record_set_waits(bucket.own, #mine > 0) end
  if #mine > 0 or bucket.heads then waiting.heads_replace(bucket, session, mine) end
end

local function bucket_of(id)
  for b = 1, #buckets do
    if buckets[b].id == id then return buckets[b] end
  end
end

-- Which heads of a quota fit together, from the front. `starts` is what is known of where flows
-- start, by space.
local function front_of(quota, starts)
  local bucket, now, horizon, front = quota.bucket, quota.bucket.now, quota_horizon(quota), {}
  -- Of the classes that leave at least this to others, one does not fit: nor does what is behind
  -- it.
  local blocked = math.huge
  for _, head in ipairs(bucket.heads) do
    if head_is_live(head, -1, quota.id, now) and head_holds(head, horizon, now) and head.headroom < blocked then
      local space = bucket_of(head.space)
      starts[head.space] = starts[head.space] or {}
      local tag = starts[head.space][head.flow]
      if not tag then
        tag = space and start_of(space, head.flow, head.space) or 0
        starts[head.space][head.flow] = tag
      end
      local amount, demands = heads_before(bucket, {
        session = -1, tie = head.session, headroom = head.headroom, flow = head.flow, space = head.space,
        bucket = space, arrival = head.arrival, tag = tag, starts = starts[head.space],
      }, quota, 0)
      local capacity = capacity_for(quota, head.cost, head.headroom)
      local ask = {cost = head.cost, ahead = amount, before = demands, capacity = capacity}
      if quota_fits(quota, ask, now)
        and not (bucket.gate and rare.provider.gate_wait(bucket.gate, demands, now) > 0) then
        front[head] = true
      elseif not space or space.flow_count == 0 then
        blocked = min(blocked, head.headroom)
      end
    end
  end
  return front
end

-- Hints the sessions of heads that fit now and did not before; of all heads if the batch has
-- changed when they may pass. Each session is expected to come back at once, and told so if it was
-- not yet.
function waiting.wake(bucket, channel, command)
  local woken, starts, now = {}, {}, bucket.now
  local function publish(of_session)
    local to = channel .. string.format('%.0f', of_session)
    if channel ~= '' then redis.pcall(command, to, bucket.key) end -- PUBLISH
  end
  for k = 1, bucket.count do
    local quota = bucket.quotas[k]
    local front = front_of(quota, starts)
    for _, head in ipairs(bucket.heads) do
      if head.quota == quota.id then
        local fits, fitted, was_behind = front[head] or false, head.fits, head.is_behind
        head.fits = fits
        head.is_behind = was_behind and fits_alone(quota, head.cost, head.headroom)
        if fits ~= fitted or head.is_behind ~= was_behind then bucket.heads_changed, bucket.rare = true, true end
        local is_news = fits and not fitted or bucket.is_stirred and not head_is_late(head, now)
        if is_news and head.session ~= session and (head.due == 0 or head.due > now) then
          head.due, bucket.heads_changed, bucket.rare = now, true, true
          if not woken[head.session] then publish(head.session) end
          woken[head.session] = true
        end
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

-- Settles a claim, or detaches: see arguments.lua.
function changes.perform_of_claim(kind, at, of, count, claim, lease)
  if kind == DETACH then
    for _, bucket in ipairs(of) do
      bucket_detach(bucket, claim, message, at - 1, lease, wall)
      at = at + bucket.count
    end
    return answer(DONE, 1)
  end
  local first = at
  for _, bucket in ipairs(of) do
    local record = changes.bucket_record(bucket, claim)
    if not record or not changes.record_is_claim(record) then
      return answer(NO_CLAIM, 1)
    end
  end
  edited = true
  local reserved = first + 2 * #of
  for b, bucket in ipairs(of) do
    local shares = changes.bucket_record(bucket, claim).shares
    local granted = first + 2 * b - 2
    for k = 1, bucket.count do
      local quota = bucket.quotas[k]
      local own_share, share = quota.share, shares[quota.id] or 0
      local at = message[reserved]
      -- A claim is younger than its grant, and settles no more than it holds.
      message[at], quota.share = min(message[at], share), share
      quota_settle(quota, 1, granted, reserved, reserved + 2 * count, 0, 0, kind == 6)
      reserved = reserved + 2
      quota.share, shares[quota.id] = own_share, quota.share
    end
    if kind == 6 then bucket_end_claim(bucket, claim) end
  end
  answer(DONE, 1)
end
