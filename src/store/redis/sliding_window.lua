-- At most `limit` in any window of the given length, at any phase: {slot, len, charged, head,
-- newest, began, ring}. `charged` is the sum of the ring, `newest` what is charged to its newest
-- slot, which `began` then.

-- Replaces what was charged to the settles of a run: see quota_state.lua.
local function sliding_amend(window, many, at, reserved, actual, oldest, latest)
  local r, a, r_step, a_step =
    message[reserved], message[actual], message[reserved + 1], message[actual + 1]
  if r_step + a_step == 0 and message[r] == message[a] then return end
  local began, since, charged, newest = window.began, window.since, window.charged, window.newest
  local head, len, slot, slots = window.head, window.len, window.slot, nil
  if many > 1 and oldest >= since then
    local first, charge, index = oldest - oldest % slot, nil, nil
    if oldest >= began then
      charge = newest
    elseif latest < first + slot and head - first / slot < len then
      slots, index = rare.rings.ring_of(window).slots, first / slot % len + 1
      charge = slots[index] or rare.rings.ring_decode(window, window.ring, index)
    end
    local before, after = charge and column_sum(reserved, many), column_sum(actual, many)
    if charge and before <= charge and after <= MAX_TAKEN - charged then
      -- All of them are in one slot, and no bound can cut one.
      window.charged, charge = charged - before + after, charge - before + after
      if index then slots[index] = charge else window.newest = charge end
      return
    end
  end
  local i, i_step = message[at], message[at + 1]
  for _ = 1, many do
    local granted_at, more = message[i], message[a] - message[r]
    i, r, a = i + i_step, r + r_step, a + a_step
    if more ~= 0 then
      local charge, index = newest, nil
      if granted_at < began then
        local nth = (granted_at - granted_at % slot) / slot
        charge = nil
        if head - nth < len then
          slots = slots or rare.rings.ring_of(window).slots
          index = nth % len + 1
          charge = slots[index] or rare.rings.ring_decode(window, window.ring, index)
        end
      end
      if charge then
        if more > 0 then
          if more > MAX_TAKEN - charged then more = MAX_TAKEN - charged end
        elseif granted_at < since then
          more = 0
        elseif more < -charge then
          more = -charge
        end
        charged = charged + more
        if index then slots[index] = charge + more else newest = charge + more end
      end
    end
  end
  window.charged, window.newest = charged, newest
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

-- RARE waiting

function waiting.sliding_until_left(window, amount, now)
  local ring, len, head, left = rare.rings.ring_of(window), window.len, window.head, 0
  for slot = head - len + 1, head do
    local index = slot % len + 1
    local charge = slot == head and window.newest or ring.slots[index]
    left = left + (charge or rare.rings.ring_decode(window, ring, index))
    if left >= amount then return drained(product(slot + len, window.slot), now) end
  end
end
