-- The order of the operations of a batch: flows of one space and class take turns, and the waiters
-- of a session keep their order.

-- RARE waiting

-- How long ago the waiting reserves so far arrived: what the session says and what counts, in
-- turns.
local ages = {}

local function append_age(told, age)
  local n = #ages
  if n > 0 and ages[n] == age and ages[n - 1] >= told then return end
  ages[n + 1], ages[n + 2] = told, age
end

local function behind_older(told, age)
  for i = 1, #ages, 2 do
    if ages[i] >= told and ages[i + 1] < age then age = ages[i + 1] end
  end
  return age
end

-- How long ago a demand arrived that comes in its own place, `told` ago as its session says.
local function age_of(mode, of, waiter, told)
  local age = nil
  for _, bucket in ipairs(of) do
    local head = waiter > 0 and heads_find(bucket, nil, waiter)
    if head then age = max(age or 0, drained(bucket.now, head.arrival)) end
  end
  age = age or told
  return mode == WAIT and behind_older(told, age) or age
end

-- How far the reserve whose costs follow index `first` of the message moves its flow on: the part
-- of its last bucket's limits that it takes, by its weight.
local function step_of(first, of, count, weight)
  local part, space = 0, of[#of]
  for k = 1, space.count do
    local part_of_quota = message[first + count - space.count + k] / max(space.quotas[k].whole, 1)
    if part_of_quota > part then part = part_of_quota end
  end
  return part / max(weight, 1)
end

-- Applies the operations in such an order that flows of one space and class take turns. Returns
-- false if that is as they come, and then does nothing.
function waiting.perform_in_turns(first, last)
  local ops, has_flows, moved, lasts, groups, in_order = {}, false, {}, {}, {}, {}
  each_run(first, last, function(kind, at, many, of, count, x, y, z)
    local size = kind <= DRY and count + 3 or #of + 2 * count
    if many > 1 then at = rare.rows.singly(at, many, size) end
    for n = 0, many - 1 do
      ops[#ops + 1] = {
        kind = kind, at = at + 3 * n * size, of = of, count = count, x = x, y = y, z = z,
        i = #ops + 1,
      }
    end
    if kind == WAIT and (y ~= 0 or of[#of].flow_count > 0) then has_flows = true end
  end)
  if not has_flows then return false end
  for i, op in ipairs(ops) do
    if op.kind == WAIT then
      local space, headroom, flow, first = op.of[#op.of], op.x, op.y, message[op.at] + 1
      local told = message[first]
      op.age = age_of(WAIT, op.of, message[first - 1], told)
      append_age(told, op.age)
      moved[space], groups[space] = moved[space] or {}, groups[space] or {}
      local start = moved[space][flow] or start_of(space, flow)
      moved[space][flow], op.tag = start + step_of(first, op.of, op.count, op.z), start
      for _, bucket in ipairs(op.of) do
        op.tag = min(op.tag, kept_tag(bucket, message[first - 1]))
      end
      lasts[space] = lasts[space] or {}
      op.tag = max(op.tag, lasts[space][flow] or 0)
      lasts[space][flow] = op.tag
      local group = groups[space][headroom] or {}
      groups[space][headroom], group[#group + 1] = group, op
    end
    in_order[i] = op
  end
  local turns, places = {}, {}
  for _, of_space in pairs(groups) do
    for _, group in pairs(of_space) do
      for _, op in ipairs(group) do places[#places + 1] = op.i end
      turns[#turns + 1] = sort_by(group, function(op) return op.tag end)
    end
  end
  table.sort(places)
  local nexts = {}
  for _, place in ipairs(places) do
    local first, from = nil, nil
    for i, sorted in ipairs(turns) do
      local op = sorted[(nexts[i] or 0) + 1]
      if op and (not first or op.age > first.age or op.age == first.age and op.i < first.i) then
        first, from = op, i
      end
    end
    in_order[place], nexts[from] = first, (nexts[from] or 0) + 1
  end
  local oldest_after = 0
  for place = #in_order, 1, -1 do
    local op = in_order[place]
    if op.tag then
      op.overtakes = oldest_after > op.age
      oldest_after = max(oldest_after, op.age)
    end
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
