-- A quota as the client declares it. It becomes the state of the quota (see quota_state.lua), which takes over
-- what is declared: {id, kind, held, holds, whole, units, room} and what its kind of window needs. `whole` is
-- what headroom is a share of, `room` the same in units. In a message: id, limit, kind, whether it is held,
-- and, by kind:
--   1  sliding: slot, slots;            2  token bucket: tick, units, burst, max_debt, slot, slots;
--   3  fixed window: length, anchor;    4  in flight: nothing;
--   5  calendar, a fixed window with boundaries: how many, and those.

local SLIDING = 1
local DRAINING = 2
local FIXED = 3
local IN_FLIGHT = 4

-- The rule at index `i` of the message, and the index after it.
local function rule_decoded(message, i, wall)
  local id, limit, kind, held = message[i], message[i + 1], message[i + 2], message[i + 3] == 1
  if kind == SLIDING then
    return {
      id = id, kind = kind, held = held, holds = held, whole = limit, units = 1, room = limit,
      slot = message[i + 4], len = message[i + 5] + 1, width = 8, ring = false, since = 0, in_flight = 0,
      charged = 0, taken = 0, share = 0, head = 0, newest = 0, began = 0, cap = false, bucket = false,
    }, i + 6
  elseif kind == DRAINING then
    local units, burst = message[i + 5], message[i + 6]
    return {
      id = id, kind = kind, held = held, holds = held, whole = burst, units = units,
      room = product(burst, units), rate = limit, tick = message[i + 4], burst = burst,
      max_debt = message[i + 7], slot = message[i + 8], len = message[i + 9], width = 24, ring = false,
      since = 0, in_flight = 0, charged = 0, taken = 0, share = 0, head = 0, newest = 0, began = 0,
      cap = false, bucket = false, at = 0, drain = 0, before = 0, max_used = 0, excess = 0, excess_rate = 0,
      ceiling = 0, edited = false,
    }, i + 10
  end
  local quota = {
    id = id, kind = kind, held = held, holds = held or kind == IN_FLIGHT, whole = limit, units = 1,
    room = limit, since = 0, in_flight = 0, charged = 0, taken = 0, share = 0, cap = false, bucket = false,
    window_end = 0, begin = 0, next = 0,
  }
  if kind == IN_FLIGHT then return quota, i + 4 end
  if kind == FIXED then
    local length = message[i + 4]
    quota.begin = drained(wall, (wall + length - message[i + 5]) % length)
    quota.next = quota.begin + length
    return quota, i + 6
  end
  local boundaries = message[i + 4]
  quota.kind, quota.is_uncharted, i = FIXED, true, i + 5
  for boundary = i, i + boundaries - 1 do
    if message[boundary] > wall then
      if boundary > i then
        quota.begin, quota.next, quota.is_uncharted = message[boundary - 1], message[boundary], nil
      end
      break
    end
  end
  return quota, i + boundaries
end

-- `whole` without the share of a class that leaves `headroom` (in ten-thousandths) to others, with nothing in
-- between that is not exact.
local function less_headroom(whole, headroom)
  headroom = math.min(headroom, 10000)
  local rest = whole % 10000
  return whole - (whole - rest) / 10000 * headroom - math.floor(rest * headroom / 10000)
end

-- RARE waiting

-- What one demand of this cost can get at most, of a class that leaves `headroom` to others. One that needs
-- nothing is not held up by what is left to others, only by a debt.
local function capacity_for(quota, cost, headroom)
  if cost == 0 or headroom == 0 then return quota.whole end
  return less_headroom(quota.whole, headroom)
end
