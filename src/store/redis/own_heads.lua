-- The heads of the session that are to be, in the buckets of which its batch says what waits there:
-- `mine` of each.

-- RARE waiting

local MAX_LINES = 4

local alone = {ahead = 0, before = 0}
local function fits_alone(quota, cost, headroom)
  alone.cost, alone.capacity = cost, capacity_for(quota, cost, headroom)
  return quota_fits(quota, alone, quota.bucket.now)
end

-- Whether waiters that ask this much, the last of which came at `last`, are behind a head of the
-- session, which takes them in; or behind so many groups that they are not a head of their own.
local function are_behind_mine(quota, headroom, flow, count, amount, last, fits)
  local groups = 0
  for _, head in ipairs(quota.bucket.mine or {}) do
    if head.quota == quota.id and (head.outlook == OUTLOOK_FITS) == fits then
      if head.headroom == headroom and head.flow == flow then
        head.count, head.sum = sum(head.count, count), sum(head.sum, amount)
        head.last = max(head.last, last)
        return true
      end
      groups = groups + 1
    end
  end
  return groups >= MAX_LINES
end

local function add_head(bucket, head)
  bucket.mine = bucket.mine or {}
  bucket.mine[#bucket.mine + 1] = head
end

-- Lines of waiters that are not in the batch: see arguments.lua.
function waiting.wait(bucket, at)
  local now = bucket.now
  for i = at + 1, at + 11 * message[at], 11 do
    local rule = message[i] + 1
    local quota, waiter, age = bucket.quotas[rule], message[i + 4], message[i + 5]
    if rule <= bucket.count then
      local head = {
        session = session, quota = quota.id, headroom = message[i + 1], flow = message[i + 2],
        space = message[i + 3], waiter = waiter, arrival = drained(now, age), cost = message[i + 6],
        part = message[i + 7], count = message[i + 8], sum = message[i + 9],
        last = drained(now, message[i + 10]),
        due = now, held_until = 0, outlook = OUTLOOK_BEHIND, tag = NO_TAG,
        place = 0, heard = heard_now(bucket),
        is_behind = fits_alone(quota, message[i + 6], message[i + 1]),
      }
      local known = heads_find(bucket, quota.id, waiter)
      if known then
        head.arrival, head.held_until = known.arrival, known.held_until
        head.outlook, head.tag = known.outlook, known.tag
        head.due = known.due == 0 and known.outlook == OUTLOOK_FITS and now or known.due
      end
      head.arrival = drained(now, behind_older(age, drained(now, head.arrival)))
      head.last = max(head.last, head.arrival)
      if head.held_until <= sum(now, quota_horizon(quota)) then
        go_ahead(quota, head.headroom, head.sum, head.count)
      end
      local fits = head.outlook == OUTLOOK_FITS
      if not are_behind_mine(
        quota, head.headroom, head.flow, head.count, head.sum, head.last, fits
      ) then
        add_head(bucket, head)
      end
    end
  end
  answer(DONE, 1)
end

-- Replaces the session's heads in a bucket by those of the batch.
function waiting.stand(bucket)
  local mine = bucket.mine or {}
  for _, head in ipairs(mine) do
    if head.space == bucket.id then flow_wait(bucket, head.flow, bucket.now) end
  end
  local own = bucket.own or #mine > 0 and rare.changes.bucket_enter(bucket)
  if own then own.marks = own.marks - own.marks % 2 + (#mine > 0 and 1 or 0) end
  if #mine > 0 or bucket.heads then waiting.heads_replace(bucket, session, mine) end
end
