-- The front of what waits for a quota, and who is hinted that it may pass.

-- RARE waiting

local EARLIER = 10000

local function outlooks_on(quota)
  local bucket, now, outlooks, heads = quota.bucket, quota.bucket.now, {}, heads_on(quota, -1)
  local ask = {}
  local function outlook_of(head)
    local is_alone = fits_alone(quota, head.cost, head.headroom)
    ask.cost, ask.capacity = head.cost, capacity_for(quota, head.cost, head.headroom)
    local most = is_alone and quota_most_ahead(quota, ask) or 0
    local space = bucket_of(head.space)
    ask.ahead, ask.before = heads_before(
      heads, head, head.arrival, head.place, 0, head.session, head_start(head, space), head.space,
      space, most
    )
    if is_alone and quota_fits(quota, ask, now)
      and not (bucket.gate and rare.provider.gate_wait(bucket.gate, ask.before, now) > 0) then
      return OUTLOOK_FITS
    end
    return ask.before == 0 and OUTLOOK_FIRST or OUTLOOK_BEHIND
  end
  local blocked = math.huge
  for i = 1, #heads do
    local head = heads[i]
    if head.headroom < blocked then
      outlooks[head] = outlook_of(head)
      if heads.flow and outlooks[head] ~= OUTLOOK_FITS then blocked = head.headroom end
    end
  end
  return outlooks
end

local function fits_earlier(head, quota)
  if head.due <= quota.bucket.now + EARLIER then return false end
  local capacity = capacity_for(quota, head.cost, head.headroom)
  local ask = {cost = head.cost, ahead = 0, before = 0, capacity = capacity}
  local _, wait = quota_shortage(quota, ask, quota.bucket.now, wall)
  return wait and head.due > max(sum(quota.bucket.now, wait), head.held_until) + EARLIER
end

-- Hints the sessions of heads that may pass now. Each is expected to come back at once, and told so
-- if it was not yet.
function waiting.wake(bucket, channel, command)
  local woken, now = {}, bucket.now
  local function publish(of_session)
    local to = channel .. string.format('%.0f', of_session)
    if channel ~= '' then redis.pcall(command, to, bucket.key) end -- PUBLISH
  end
  waiting.heads_placed(bucket)
  for k = 1, bucket.count do
    local quota = bucket.quotas[k]
    local outlooks = outlooks_on(quota)
    for _, head in ipairs(bucket.heads) do
      if head.quota == quota.id then
        local outlook, before = outlooks[head] or OUTLOOK_BEHIND, head.outlook
        if outlook ~= before then
          head.outlook = outlook
          head_changed(bucket, head)
        end
        if head.is_behind and not fits_alone(quota, head.cost, head.headroom) then
          head.is_behind = false
          head_changed(bucket, head)
        end
        local is_called = bucket.is_stirred or bucket.holds_up and head_is_unheard(head, now)
        local is_news = is_called and not head_is_late(head, now)
          or outlook ~= before
            and (outlook == OUTLOOK_FITS or outlook == OUTLOOK_FIRST and fits_earlier(head, quota))
        if is_news and head.session ~= session and (head.due == 0 or head.due > now) then
          head.due = now
          head_changed(bucket, head)
          if not woken[head.session] then publish(head.session) end
          woken[head.session] = true
        end
      end
    end
  end
end
