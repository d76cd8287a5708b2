-- A ring of charges, one per slot of time: {head, len, newest, field, key, packed, slots, decoded}.
-- Slot number s lives at index s % len + 1. The charge of the newest slot, `head`, is `newest`; the others are packed in a
-- field of their own, which is loaded when one of them is touched. Those that are touched are decoded into `slots`, which
-- then hold what is true; what they say of the newest slot means nothing.

-- Up to so many decoded slots, putting each back in its place is cheaper than packing them all.
local FEW = 3

local function ring_field(id)
  return 'r' .. struct.pack('<d', id)
end

local function ring_new(id, head, len)
  local packed = string.rep('\0', 8 * len)
  return {head = head, len = len, newest = 0, field = ring_field(id), packed = packed, slots = {}, decoded = 0, new = true}
end

-- One that is stored in a bucket.
local function ring_stored(key, id, head, len, newest)
  return {head = head, len = len, newest = newest, field = ring_field(id), key = key, slots = {}, decoded = 0}
end

local function ring_load(ring)
  local packed = redis.call('HGET', ring.key, ring.field)
  if not packed or #packed ~= 8 * ring.len then error('the state of this bucket is cut short') end
  ring.packed = packed
end

local function decode_slot(ring, index)
  if not ring.packed then ring_load(ring) end
  local charge = struct.unpack('<d', ring.packed, 8 * index - 7)
  ring.slots[index] = charge
  ring.decoded = ring.decoded + 1
  return charge
end

local function decode_slots(ring)
  if ring.decoded < ring.len then
    if not ring.packed then ring_load(ring) end
    local all = numbers(ring.packed, 1, ring.len)
    for index, charge in pairs(ring.slots) do all[index] = charge end
    ring.slots, ring.decoded = all, ring.len
  end
  ring.slots[ring.head % ring.len + 1] = ring.newest
  return ring.slots
end

local function ring_holds(ring, slot)
  return slot <= ring.head and ring.head - slot < ring.len
end

-- Makes `slot` the head. Answers the charges that leave, oldest first (nil if none), and how many further slots
-- passed after the ring was already empty. Never moves back.
local function ring_advance(ring, slot)
  local head, len = ring.head, ring.len
  local steps = slot - head
  if steps <= 0 then return nil, 0 end
  local within = steps < len and steps or len
  if within > FEW then decode_slots(ring) end
  local slots, left = ring.slots, {}
  if not slots[head % len + 1] then decode_slot(ring, head % len + 1) end
  slots[head % len + 1] = ring.newest
  for step = 1, within do
    local index = (head + step) % len + 1
    left[step] = slots[index] or decode_slot(ring, index)
    slots[index] = 0
  end
  ring.head, ring.newest = slot, 0
  return left, steps - within
end

-- Adds to a slot the ring holds.
local function ring_add(ring, slot, amount)
  if slot == ring.head then
    ring.newest = sum(ring.newest, amount)
    return
  end
  local index, slots = slot % ring.len + 1, ring.slots
  slots[index] = sum(slots[index] or decode_slot(ring, index), amount)
end

-- Takes from a slot the ring holds, never below 0. Answers what was taken.
local function ring_take(ring, slot, amount)
  local index, slots, newest = slot % ring.len + 1, ring.slots, slot == ring.head
  local charge = newest and ring.newest or slots[index] or decode_slot(ring, index)
  if amount > charge then amount = charge end
  if newest then ring.newest = charge - amount else slots[index] = charge - amount end
  return amount
end

-- The packed charges, if they are not as they were stored.
local function ring_changed(ring)
  if ring.decoded == 0 then return ring.new and ring.packed end
  if ring.decoded > FEW then return packed_numbers(decode_slots(ring), 1, ring.len) end
  local packed = ring.packed
  for index, charge in pairs(ring.slots) do
    packed = string.sub(packed, 1, 8 * index - 8) .. struct.pack('<d', charge) .. string.sub(packed, 8 * index + 1)
  end
  return packed
end
