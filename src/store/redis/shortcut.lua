-- The shortcut: what happens nearly always, in one go. One bucket of sliding windows, rules that have not changed, a known
-- lane, no slot that ends, nothing that waits, only reserves that fit and settles in the newest slot. Wherever that turns
-- out not to be so, this gives up before it has written anything, and all the rest of the script, which is slower but
-- complete and says the same as the engine in Rust, begins from what is stored.
--
-- It is written for speed: flat lists of numbers as they were unpacked, no functions, one test per quota where one will do.

local wall = clock()
local message = {struct.unpack('<' .. string.rep('d', #ARGV[2] / 8), ARGV[2])}
local seq, lease, digest, count = message[1], message[2], message[3], message[4]
local first_op, last_op = 5 + 3 * count, #ARGV[2] / 8
message[last_op + 1] = nil -- the position after them
local key, field = KEYS[1], ARGV[1]
local found = redis.call('HMGET', key, 's', field)

repeat
  local state, record = found[1], found[2]
  if digest == 0 or not state or not record or ARGV[4] then break end
  if #state < 64 + 48 * count or #record < 56 + 16 * count then break end

  -- `s` is the state as bucket.lua lays it out, quota k from index 3 + 6 * k on: since, expires, in flight, charged, head,
  -- newest. `l` is the lane as lane_encoded lays it out, share k at index 7 + 2 * k.
  local all = '<' .. string.rep('d', #state / 8)
  local s = {struct.unpack(all, state)}
  local l = {struct.unpack('<' .. string.rep('d', 7 + 2 * count), record)}
  if s[1] ~= digest or l[1] ~= digest or l[7] ~= count or seq <= l[2] then break end
  local now = wall
  if s[4] > 1000000 then now = wall + s[4] end
  if now < s[3] then now = s[3] end
  if now >= s[7] or now < s[5] then break end

  local last, in_slot, expires, newest_slot = 3 + 6 * count, true, now + 600000000, l[6]
  if s[6] > expires then expires = s[6] end
  local m = 5
  for q = 9, last, 6 do
    local slot = message[m + 1]
    local begin = s[q + 4] * slot
    if now >= begin + slot then in_slot = false end
    -- A settle of a grant from here on changes the newest slots alone.
    if begin > newest_slot then newest_slot = begin end
    if s[q] > newest_slot then newest_slot = s[q] end
    local lasts = now + message[m + 2]
    if lasts > s[q + 1] then s[q + 1] = lasts end
    if lasts > expires then expires = lasts end
    m = m + 3
  end
  if not in_slot then break end

  local at, verdicts, codes, plain = first_op, 0, nil, true
  while plain and at <= last_op do
    local kind, many, before = message[at], message[at + 1], codes
    if kind == 7 then
      at = at + 2
      for _ = 1, many do
        if message[at] < newest_slot then plain = false break end
        local share = 9
        for q = 9, last, 6 do
          at = at + 1
          local reserved = message[at]
          local back, flying = reserved - message[at + count], l[share]
          if flying > reserved then flying = reserved end
          l[share] = l[share] - flying
          local in_flight, newest = s[q + 2] - flying, s[q + 5]
          s[q + 2] = in_flight > 0 and in_flight or 0
          if back > newest then back = newest end
          s[q + 5] = newest - back
          local charged = s[q + 3] - back
          s[q + 3] = charged
          if charged > 2251799813685248 then plain = false end
          share = share + 2
        end
        at = at + count + 1
      end
      codes = string.rep('\5', many)
      if before then codes = before .. codes end
    elseif (kind == 1 or kind == 2 or kind == 4 or kind == 5) and message[at + 2] <= 10000 then
      local headroom, room, room_before, q, m = message[at + 2], {0, 0, 0, 0}, {0, 0, 0, 0}, 12, 5
      for k = 1, count do
        local capacity = message[m]
        if headroom > 0 then
          local parts = math.floor(capacity / 10000)
          capacity = capacity - parts * headroom - math.floor((capacity - parts * 10000) * headroom / 10000)
        end
        room[k] = capacity - s[q]
        room_before[k] = room[k]
        q, m = q + 6, m + 3
      end
      at = at + 2
      for _ = 1, many do
        for k = 1, count do
          local left = room[k] - message[at + k]
          if left < 0 then plain = false end
          room[k] = left
        end
        if not plain then break end
        at = at + count
      end
      at = at + 1
      local share = 9
      q = 9
      for k = 1, count do
        local granted = room_before[k] - room[k]
        s[q + 2], s[q + 3], s[q + 5] = s[q + 2] + granted, s[q + 3] + granted, s[q + 5] + granted
        l[share] = l[share] + granted
        if s[q + 2] > 2251799813685248 then plain = false end
        q, share = q + 6, share + 2
      end
      codes = many == 1 and '\1' or string.rep('\1', many)
      if before then codes = before .. codes end
    else
      plain, many = false, 0
    end
    verdicts = verdicts + many
  end
  if not plain then break end

  local lease_until, due = now + lease, now + 600000000
  for share = 9, 7 + 2 * count, 2 do
    if l[share] > 0 then due = lease_until end
  end
  if due < s[7] then s[7] = due end
  s[3], s[4], s[6] = now, now > wall and now - wall or 0, expires
  local needed = wall - now + (lease_until > expires and lease_until or expires)
  if needed > s[8] then
    redis.call('PEXPIRE', key, math.ceil((needed - wall) / 1000) + 60000)
    s[8] = needed + 59000000
  end
  l[2], l[3], l[4], l[5] = seq, now, lease_until, now + 600000000
  local last_number = 7 + 2 * count
  codes = codes or ''
  l[last_number + 1], l[last_number + 2], l[last_number + 3] = verdicts, 0, codes
  redis.call('HSET', key,
    's', struct.pack(all, unpack(s, 1, #state / 8)),
    field, struct.pack('<' .. string.rep('d', last_number + 2) .. 'c0', unpack(l, 1, last_number + 3)))
  return struct.pack('<dddddddc0', wall, 0, now, s[2], expires, verdicts, 0, codes)
until true
