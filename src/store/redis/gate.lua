-- A pause of a bucket or of a quota, and what follows it: {until_then, surfaced_until, asked_until,
-- length, phase, probe, spread_until, next, step}. Nothing passes before `until_then`. A provider
-- asked for a wait until `asked_until`, and until `surfaced_until` demands are refused instead of
-- waiting for it. `length` is how long the last pause was that a refusal caused and no probe has
-- ended. Phases: 0 opens fully; 1 is half open: one demand passes, and did so at `probe` if that is
-- not 0; 2 spreads: one demand passes every `step` until `spread_until`, the next at `next`.

-- RARE provider

-- A probe that is not answered within this counts as answered well; the waiters follow over as
-- long.
local ANSWERED_WITHIN = 1000000
local SPREAD = 1000000
local CATCH_UP = 20000
local PROBE_LATE = 250000

local function gate_resume(gate)
  gate.until_then, gate.surfaced_until, gate.asked_until, gate.length, gate.phase = 0, 0, 0, 0, 0
  gate.probe, gate.spread_until, gate.next, gate.step = 0, 0, 0, 0
end

local function gate_new()
  local gate = {}
  gate_resume(gate)
  return gate
end

local function gate_is_gone(gate)
  return gate.phase == 0
    and gate.until_then + gate.surfaced_until + gate.asked_until + gate.length == 0
end

-- `refusal` is {at, asked, lasts, longest}.
local function gate_refuse(gate, refusal, now)
  local lasts, length = refusal.lasts, gate.length
  if length > 0 and refusal.at >= gate.until_then then
    lasts = max(lasts, min(sum(length, length), refusal.longest))
    gate.length = lasts
  else
    gate.length = max(length, lasts)
  end
  gate.until_then = max(gate.until_then, sum(now, lasts))
  gate.phase, gate.probe, gate.spread_until, gate.next, gate.step = 1, 0, 0, 0, 0
  if gate.surfaced_until <= now then gate.surfaced_until, gate.asked_until = 0, 0 end
  if refusal.asked > lasts then
    gate.surfaced_until = max(gate.surfaced_until, sum(now, lasts))
    gate.asked_until = max(gate.asked_until, sum(now, refusal.asked))
  end
end

local function gate_spread(gate, waiting, now)
  if waiting == 0 then return gate_resume(gate) end
  gate.phase, gate.probe, gate.length = 2, 0, 0
  gate.spread_until, gate.next, gate.step = sum(now, SPREAD), now, max(floor(SPREAD / waiting), 1)
end

local function gate_answered(gate, at, waiting, now)
  local is_probe = gate.phase == 1 and gate.probe > 0 and at >= gate.until_then
  if is_probe then gate_spread(gate, waiting, now) end
  return is_probe
end

local function gate_pass(gate, waiting, now)
  local phase, probe = gate.phase, gate.probe
  if gate.until_then > now then return end
  if phase == 0 or phase == 2 and now >= gate.spread_until then
    gate_resume(gate)
  elseif phase == 1 and probe > 0 and now >= probe + ANSWERED_WITHIN then
    gate_spread(gate, waiting, now)
  elseif phase == 1 and probe == 0 and waiting == 0 and provider.gate_lasts(gate, now) == 0 then
    gate_resume(gate)
  end
end

function provider.gate_wait(gate, before, now)
  local phase, probe = gate.phase, gate.probe
  if gate.until_then > now then return gate.until_then - now end
  if phase == 0 then return 0 end
  if phase == 2 then return drained(sum(gate.next, gate.step * before), now) end
  if probe > 0 then return drained(probe + ANSWERED_WITHIN, now) end
  return before == 0 and 0 or PROBE_LATE
end

function provider.gate_grant(gate, now)
  if gate.phase == 1 then
    gate.probe = now
    return true
  end
  if gate.phase == 2 then
    gate.next = sum(max(gate.next, drained(now, max(gate.step, CATCH_UP))), gate.step)
  end
  return false
end

local function gate_paused_until(gate, now)
  return gate.until_then > now and gate.until_then or 0
end

function provider.gate_asked(gate, now)
  if gate.surfaced_until > now and gate.asked_until > gate.until_then then
    return drained(gate.asked_until, now)
  end
end

function provider.gate_lasts(gate, now)
  local till = gate.until_then
  if gate.phase == 1 then
    till = sum(till, sum(gate.length, ANSWERED_WITHIN + SPREAD))
  elseif gate.phase == 2 then
    till = max(till, gate.spread_until)
  end
  return drained(till, now)
end

-- A gate is stored as nine numbers, a cap as two more.
function provider.gate_decoded(list, i)
  return {
    until_then = list[i], surfaced_until = list[i + 1], asked_until = list[i + 2],
    length = list[i + 3],
    phase = list[i + 4], probe = list[i + 5], spread_until = list[i + 6], next = list[i + 7],
    step = list[i + 8], withheld = list[i + 9], withheld_until = list[i + 10],
  }
end

function provider.gate_append(gate, to)
  local n = #to
  to[n + 1], to[n + 2] = gate.until_then, gate.surfaced_until
  to[n + 3], to[n + 4] = gate.asked_until, gate.length
  to[n + 5], to[n + 6], to[n + 7], to[n + 8] = gate.phase, gate.probe, gate.spread_until, gate.next
  to[n + 9], to[n + 10], to[n + 11] = gate.step, gate.withheld or 0, gate.withheld_until or 0
end
