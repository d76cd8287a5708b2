-- At most `limit` in any window of the given length, at any phase: {slot, len, charged, head,
-- newest, began, ring}. `charged` is the sum of the ring, `newest` what is charged to its newest
-- slot, which `began` then.

local function sliding_charge(window, amount)
  local room = MAX_TAKEN - window.charged
  if amount > room then amount = room end
  window.charged, window.newest = window.charged + amount, window.newest + amount
end

-- Replaces what was charged at `at`. A slot that has left the window needs nothing.
local function sliding_amend(window, at, reserved, actual, refundable)
  if at < window.began then
    return rare.rings.sliding_amend_older(window, at, reserved, actual, refundable)
  end
  if actual >= reserved then return sliding_charge(window, actual - reserved) end
  if refundable then
    local refund, newest = reserved - actual, window.newest
    if refund > newest then refund = newest end
    window.charged, window.newest = window.charged - refund, newest - refund
  end
end

-- RARE rings

-- Begins the slot that `now` is in, a later one.
function rings.sliding_advance(window, now)
  local slot, len, old = window.slot, window.len, window.head
  local head = (now - now % slot) / slot
  if head - old >= len then
    window.charged = 0
    rings.ring_new(window, true)
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

-- Replaces what was charged before the newest slot began.
function rings.sliding_amend_older(window, at, reserved, actual, refundable)
  local slot = (at - at % window.slot) / window.slot
  if window.head - slot >= window.len then return end
  local ring, index, more = ring_of(window), slot % window.len + 1, actual - reserved
  local charge = ring.slots[index] or ring_decode(window, ring, index)
  if more >= 0 then
    more = min(more, MAX_TAKEN - window.charged)
  else
    more = refundable and max(more, -charge) or 0
  end
  ring.slots[index], window.charged = charge + more, window.charged + more
end

-- RARE waiting

-- Time until `amount` of what is charged has left, if that much is charged.
function waiting.sliding_until_left(window, amount, now)
  local ring, len, head, left = rare.rings.ring_of(window), window.len, window.head, 0
  for slot = head - len + 1, head do
    local index = slot % len + 1
    local charge = slot == head and window.newest or ring.slots[index]
    left = left + (charge or rare.rings.ring_decode(window, ring, index))
    if left >= amount then return drained(product(slot + len, window.slot), now) end
  end
end
