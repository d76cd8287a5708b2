-- At most `limit` in any window of the given length, at any phase: {slot, len, charged, head, newest, began,
-- ring}. `charged` is the sum of the ring, `newest` what is charged to its newest slot, which `began` then.

-- Begins the slot that `now` is in, a later one.
local function sliding_advance(window, now)
  local slot, len, old = window.slot, window.len, window.head
  local head = (now - now % slot) / slot
  if head - old >= len then
    window.charged = 0
    ring_new(window, true)
  else
    local ring, charged = ring_of(window), window.charged
    ring_write(ring, old % len + 1, window.newest)
    for step = old + 1, head do
      local index = step % len + 1
      charged = charged - (ring.slots[index] or ring_decode(window, ring, index))
      ring.slots[index] = 0
    end
    window.charged = charged
  end
  window.head, window.newest, window.began = head, 0, head * slot
end

local function sliding_add(window, slot, amount)
  local room = MAX_TAKEN - window.charged
  if amount > room then amount = room end
  window.charged = window.charged + amount
  if slot == window.head then
    window.newest = window.newest + amount
    return
  end
  local ring, index = ring_of(window), slot % window.len + 1
  ring.slots[index] = (ring.slots[index] or ring_decode(window, ring, index)) + amount
end

-- Replaces what was charged at `at`. A slot that has left the window needs nothing.
local function sliding_amend(window, at, reserved, actual, refundable)
  local head = window.head
  local slot = at >= window.began and head or (at - at % window.slot) / window.slot
  if head - slot >= window.len then return end
  if actual >= reserved then
    sliding_add(window, slot, actual - reserved)
  elseif refundable then
    local refund, charge, index, ring = reserved - actual, window.newest, nil, nil
    if slot ~= head then
      index, ring = slot % window.len + 1, ring_of(window)
      charge = ring.slots[index] or ring_decode(window, ring, index)
    end
    if refund > charge then refund = charge end
    if slot == head then window.newest = charge - refund else ring.slots[index] = charge - refund end
    window.charged = window.charged - refund
  end
end

-- RARE waiting

-- Time until `amount` of what is charged has left, if that much is charged.
function sliding_until_left(window, amount, now)
  local ring, len, head, left = ring_of(window), window.len, window.head, 0
  local slots = ring.slots
  for slot = head - len + 1, head do
    local index = slot % len + 1
    left = left + (slot == head and window.newest or slots[index] or ring_decode(window, ring, index))
    if left >= amount then return drained(product(slot + len, window.slot), now) end
  end
end
