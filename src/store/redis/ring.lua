-- A ring of charges, one per slot of time: {head, len, packed, from, slots, decoded}.
-- Slot number s lives at index s % len + 1; the newest slot is `head`. The charges stay packed, from byte `from` of
-- `packed` on; those that are touched are decoded into `slots`, which then hold what is true.

-- Up to so many decoded slots, putting each back in its place is cheaper than packing them all.
local FEW = 3

local function ring_new(head, len)
  return {head = head, len = len, packed = string.rep('\0', 8 * len), from = 1, slots = {}, decoded = 0}
end

local function decode_slot(ring, index)
  local charge = struct.unpack('<d', ring.packed, ring.from + 8 * index - 8)
  ring.slots[index] = charge
  ring.decoded = ring.decoded + 1
  return charge
end

local function decode_slots(ring)
  if ring.decoded < ring.len then
    local all = numbers(ring.packed, ring.from, ring.len)
    for index, charge in pairs(ring.slots) do all[index] = charge end
    ring.slots, ring.decoded = all, ring.len
  end
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
  for step = 1, within do
    local index = (head + step) % len + 1
    left[step] = slots[index] or decode_slot(ring, index)
    slots[index] = 0
  end
  ring.head = slot
  return left, steps - within
end

-- Adds to a slot the ring holds.
local function ring_add(ring, slot, amount)
  local index, slots = slot % ring.len + 1, ring.slots
  slots[index] = sum(slots[index] or decode_slot(ring, index), amount)
end

-- Takes from a slot the ring holds, never below 0. Answers what was taken.
local function ring_take(ring, slot, amount)
  local index, slots = slot % ring.len + 1, ring.slots
  local charge = slots[index] or decode_slot(ring, index)
  if amount > charge then amount = charge end
  slots[index] = charge - amount
  return amount
end

-- The packed charges.
local function ring_packed(ring)
  if ring.decoded > FEW then
    return packed_numbers(decode_slots(ring), 1, ring.len)
  end
  local packed = string.sub(ring.packed, ring.from, ring.from + 8 * ring.len - 1)
  for index, charge in pairs(ring.slots) do
    packed = string.sub(packed, 1, 8 * index - 8) .. struct.pack('<d', charge) .. string.sub(packed, 8 * index + 1)
  end
  return packed
end
