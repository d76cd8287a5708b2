-- A ring of charges, one per slot of time. Slot number s lives at index s % len + 1; the newest
-- slot is `head`. What is charged to that one is kept beside the ring, which is loaded when another
-- slot is touched. A ring: {packed, slots, touched, drains, folds}. `slots` are those that were
-- decoded, which then hold what is true. In the ring of a token bucket each slot also has what
-- drained in it and the fold at its end (see token_bucket.lua).

-- RARE rings

-- Up to so many decoded slots, putting each back in its place is cheaper than packing them all; of
-- a token bucket more, since its slots have more numbers.
local FEW = 4
local FEW_OF_DRAINING = 16

local function width_of(quota)
  return quota.kind == SLIDING and 8 or 24
end

-- An empty one. It is not stored before it is touched, unless it replaces another one.
function rings.ring_new(quota, replaces)
  local packed = string.rep('\0', width_of(quota) * quota.len)
  quota.ring = {
    packed = packed, slots = {}, touched = 0, drains = {}, folds = {}, is_changed = replaces,
  }
end

local function ring_field(quota)
  return 'c' .. struct.pack('<d', quota.id)
end
rings.ring_field = ring_field

-- The ring of a quota, which is loaded if it was not.
local function ring_of(quota)
  local ring = quota.ring
  if not ring then
    -- One that was never touched is not stored.
    local size = width_of(quota) * quota.len
    local packed = redis.call('HGET', quota.bucket.key, ring_field(quota)) or string.rep('\0', size)
    if #packed ~= size then error('the state of this bucket is cut short') end
    ring = {packed = packed, slots = {}, touched = 0, drains = {}, folds = {}}
    quota.ring = ring
  end
  return ring
end
rings.ring_of = ring_of

-- Decodes the slot at an index. Returns its charge.
local function ring_decode(quota, ring, index)
  local charge
  if quota.kind == SLIDING then
    charge = struct.unpack('<d', ring.packed, 8 * index - 7)
  else
    charge, ring.drains[index], ring.folds[index] =
      struct.unpack('<ddd', ring.packed, 24 * index - 23)
  end
  ring.slots[index], ring.touched = charge, ring.touched + 1
  return charge
end
rings.ring_decode = ring_decode

-- Writes the slot at an index.
local function ring_write(ring, index, charge, drain, fold)
  if not ring.slots[index] then ring.touched = ring.touched + 1 end
  ring.slots[index], ring.drains[index], ring.folds[index] = charge, drain, fold
end

function rings.ring_packed(quota)
  local ring, width, len = quota.ring, width_of(quota), quota.len
  local packed, slots, drains, folds = ring.packed, ring.slots, ring.drains, ring.folds
  if ring.touched <= (width == 8 and FEW or FEW_OF_DRAINING) then
    for index, charge in pairs(slots) do
      local slot = width == 8 and struct.pack('<d', charge)
        or struct.pack('<ddd', charge, drains[index], folds[index])
      local before, after = width * (index - 1), width * index + 1
      packed = string.sub(packed, 1, before) .. slot .. string.sub(packed, after)
    end
    return packed
  end
  for index = 1, len do
    if not slots[index] then ring_decode(quota, ring, index) end
  end
  if width == 8 then return rare.packed.pack(slots, len) end
  local list = {}
  for index = 1, len do
    local i = 3 * index
    list[i - 2], list[i - 1], list[i] = slots[index], drains[index], folds[index]
  end
  return rare.packed.pack(list, 3 * len)
end
