-- A quota as the client declares it: {id, limit, kind, held, holds, whole} and what its kind of window needs.
-- `holds` and `whole` (what headroom is a share of) are worked out once.

-- By their numbers in messages and states. A calendar is a fixed window with boundaries.
local KINDS = {'sliding', 'draining', 'fixed', 'in_flight', 'calendar'}
local KIND_NUMBERS = {sliding = 1, draining = 2, fixed = 3, in_flight = 4}

-- The rule at index `i` of a message, and the index after it.
local function rule_decoded(message, i)
  local kind, held = KINDS[message[i + 2]], message[i + 3] == 1
  local rule = {
    id = message[i], limit = message[i + 1], kind = kind,
    held = held, holds = held or kind == 'in_flight', whole = message[i + 1],
  }
  i = i + 4
  if kind == 'sliding' then
    rule.slot, rule.slots = message[i], message[i + 1]
    return rule, i + 2
  elseif kind == 'draining' then
    rule.tick, rule.units, rule.burst, rule.max_debt = message[i], message[i + 1], message[i + 2], message[i + 3]
    rule.slot, rule.slots, rule.whole = message[i + 4], message[i + 5], rule.burst
    return rule, i + 6
  elseif kind == 'fixed' then
    rule.length, rule.anchor = message[i], message[i + 1]
    return rule, i + 2
  elseif kind == 'calendar' then
    local count = message[i]
    rule.kind, rule.boundaries = 'fixed', {unpack(message, i + 1, i + count)}
    return rule, i + 1 + count
  end
  return rule, i
end

-- What one demand can get at most, of a class that leaves `headroom` (in ten-thousandths) to others.
local function rule_capacity(rule, headroom)
  local whole = rule.whole
  if headroom == 0 then return whole end
  headroom = math.min(headroom, 10000)
  -- whole * headroom / 10000, with nothing in between that is not exact.
  return whole - math.floor(whole / 10000) * headroom - math.floor(whole % 10000 * headroom / 10000)
end

-- The same for a demand of this cost: one that needs nothing is not held up by what is left to others, only by a debt.
local function rule_capacity_for(rule, cost, headroom)
  return rule_capacity(rule, cost == 0 and 0 or headroom)
end

-- The beginning of the fixed window that `wall` is in and the beginning of the next one, if known.
local function rule_window_at(rule, wall)
  if rule.boundaries then
    for next, boundary in ipairs(rule.boundaries) do
      if boundary > wall then return rule.boundaries[next - 1], boundary end
    end
    return nil
  end
  local begin = math.max(wall - (wall + rule.length - rule.anchor) % rule.length, 0)
  return begin, begin + rule.length
end

-- Whether this is a calendar that does not reach to `wall`.
local function rule_is_uncharted(rule, wall)
  return rule.boundaries and rule_window_at(rule, wall) == nil
end
