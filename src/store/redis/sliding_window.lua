-- At most `limit` in any window of the given length, at any phase: {slot, charged, ring}, where `charged` is the
-- sum of the ring.

local function sliding_advance(window, now)
  local left = ring_advance(window.ring, math.floor(now / window.slot))
  if left then
    local charged = window.charged
    for i = 1, #left do charged = charged - left[i] end
    window.charged = charged
  end
end

local function sliding_add(window, slot, amount)
  local room = MAX_TAKEN - window.charged
  if amount > room then amount = room end
  ring_add(window.ring, slot, amount)
  window.charged = window.charged + amount
end

-- Replaces what was charged at `at`. A slot that has left the window needs nothing.
local function sliding_amend(window, at, reserved, actual, refundable)
  local ring, slot = window.ring, math.floor(at / window.slot)
  if slot > ring.head then slot = ring.head end
  if not ring_holds(ring, slot) then return end
  if actual >= reserved then
    sliding_add(window, slot, actual - reserved)
  elseif refundable then
    window.charged = window.charged - ring_take(ring, slot, reserved - actual)
  end
end

-- Time until `amount` of what is charged has left, if that much is charged.
local function sliding_until_left(window, amount, now)
  local ring, left = window.ring, 0
  local slots, head, len = decode_slots(ring), ring.head, ring.len
  for slot = head - len + 1, head do
    left = left + slots[slot % len + 1]
    if left >= amount then
      local leaves = product(slot + len, window.slot)
      return leaves > now and leaves - now or 0
    end
  end
end

local function sliding_length(window)
  return product(window.ring.len, window.slot)
end
