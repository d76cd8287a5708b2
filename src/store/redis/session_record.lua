-- What a bucket knows of a session, or of a detached reservation (a claim): {seq, answer,
-- lease_until, forget_at, indexed_at, since, marks, shares}. `seq` and `answer` are of the last
-- batch whose first bucket this was. `marks` is 1 if it has heads in the bucket, and 2 more if it
-- is a claim's. What was granted before `since` is not in the shares: the session was not known
-- yet, or its lease had ended. Of the sending session, the shares of the quotas in use are kept in
-- these; `shares` has what it has in flight on others, or is nil.
--
-- Stored as numbers: seq, lease_until, forget_at, indexed_at, since, marks, how many shares, those
-- (a quota's id and an amount each); then the answer.

local RECORD_NUMBERS = 7

-- RARE changes

local function record_new(now)
  return {
    seq = 0, answer = '', lease_until = now, forget_at = now, indexed_at = now, since = now,
    marks = 0,
    shares = nil,
  }
end

-- One that has its shares by quotas' ids.
function changes.record_decoded(packed)
  local list = {struct.unpack('<ddddddd', packed)}
  local record, count = record_new(0), list[7]
  record.seq, record.lease_until, record.forget_at = list[1], list[2], list[3]
  record.indexed_at, record.since, record.marks, record.shares = list[4], list[5], list[6], {}
  local from = 8 * RECORD_NUMBERS + 1
  for _ = 1, count do
    local id, amount
    id, amount, from = struct.unpack('<dd', packed, from)
    record.shares[id] = amount
  end
  record.answer = string.sub(packed, from)
  return record
end

-- That of the sending session in a bucket, where its shares are not as the quotas are.
function changes.own_record_decoded(bucket, packed)
  local record = changes.record_decoded(packed)
  for _, quota in ipairs(bucket.quotas) do
    quota.share, record.shares[quota.id] = record.shares[quota.id] or 0, nil
  end
  if not next(record.shares) then record.shares = nil end
  return record
end

-- Its quotas are those whose shares are not in the record itself.
function changes.record_encoded(record, quotas)
  local list, n = {
    record.seq, record.lease_until, record.forget_at, record.indexed_at, record.since,
    record.marks, 0,
  }, RECORD_NUMBERS
  for k = 1, #quotas do
    list[n + 1], list[n + 2] = quotas[k].id, quotas[k].share
    n = n + 2
  end
  if record.shares then
    for id, amount in pairs(record.shares) do
      if amount > 0 then
        list[n + 1], list[n + 2] = id, amount
        n = n + 2
      end
    end
  end
  list[7] = (n - RECORD_NUMBERS) / 2
  return rare.packed.pack(list, n) .. record.answer
end

function changes.record_is_claim(record)
  return record.marks >= 2
end

-- When the bucket has to look at this record again: the end of its lease matters if it has heads
-- there, or something in flight.
function changes.record_due(record, quotas)
  if record.marks % 2 == 1 then return record.lease_until end
  for k = 1, #quotas do
    if quotas[k].share > 0 then return record.lease_until end
  end
  if record.shares then
    for _, amount in pairs(record.shares) do
      if amount > 0 then return record.lease_until end
    end
  end
  return record.forget_at
end
