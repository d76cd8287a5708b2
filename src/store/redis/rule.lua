-- A quota as the client declares it. It becomes the state of the quota (see quota_state.lua), which
-- takes over what is declared: {id, kind, holds, whole, units, room} and what its kind of window
-- needs. `whole` is what headroom is a share of, `room` the same in units. In a message: id, limit,
-- kind, whether it is held, and, by kind:
--   1  sliding: slot, slots;            2  token bucket: tick, units, burst, max_debt, slot, slots;
--   3  fixed window: length, anchor;    4  in flight: nothing;
--   5  calendar, a fixed window with boundaries: how many, and those.

local SLIDING = 1
local DRAINING = 2
local FIXED = 3
local IN_FLIGHT = 4
local CALENDAR = 5

-- RARE fixed

-- The beginning of the fixed window that `wall` is in and the beginning of the next one; nothing if
-- a calendar does not reach there. What the rule says of its kind begins at index `i` of the
-- message.
function fixed.window_at(message, i, kind)
  if kind == FIXED then
    local length = message[i]
    local begin = drained(wall, (wall + length - message[i + 1]) % length)
    return begin, begin + length
  end
  for boundary = i + 1, i + message[i] do
    if message[boundary] > wall then
      if boundary == i + 1 then return nil end
      return message[boundary - 1], message[boundary]
    end
  end
end

-- RARE classes

-- `whole` without the share of a class that leaves `headroom` (in ten-thousandths) to others, with
-- nothing in between that is not exact.
function classes.less_headroom(whole, headroom)
  headroom = min(headroom, 10000)
  local rest = whole % 10000
  return whole - (whole - rest) / 10000 * headroom - floor(rest * headroom / 10000)
end

-- RARE waiting

local function capacity_for(quota, cost, headroom)
  if cost == 0 or headroom == 0 then return quota.whole end
  return rare.classes.less_headroom(quota.whole, headroom)
end
