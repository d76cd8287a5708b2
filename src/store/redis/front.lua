-- The front of what waits for a quota, and who is hinted that it may pass.

-- RARE waiting

local function bucket_of(id)
  for b = 1, #buckets do
    if buckets[b].id == id then return buckets[b] end
  end
end

-- Which heads of a quota fit together, from the front.
local function front_of(quota)
  local bucket, now, front, heads = quota.bucket, quota.bucket.now, {}, heads_on(quota, -1)
  local ask = {}
  local function fits(head)
    if not fits_alone(quota, head.cost, head.headroom) then return false end
    ask.cost, ask.capacity = head.cost, capacity_for(quota, head.cost, head.headroom)
    local space = bucket_of(head.space)
    local tag, most = space and start_of(space, head.flow) or 0, quota_most_ahead(quota, ask)
    ask.ahead, ask.before =
      heads_before(heads, head, head.arrival, 0, head.session, tag, head.space, space, most)
    return quota_fits(quota, ask, now)
      and not (bucket.gate and rare.provider.gate_wait(bucket.gate, ask.before, now) > 0)
  end
  -- Of the classes that leave at least this to others, one does not fit: nor does what is behind
  -- it.
  local blocked = math.huge
  for i = 1, #heads do
    local head = heads[i]
    if head.headroom < blocked then
      local space = bucket_of(head.space)
      if fits(head) then
        front[head] = true
      elseif not space or space.flow_count == 0 then
        blocked = head.headroom
      end
    end
  end
  return front
end

-- Hints the sessions of heads that fit now and did not before; of all heads if the batch has
-- changed when they may pass. Each session is expected to come back at once, and told so if it was
-- not yet.
function waiting.wake(bucket, channel, command)
  local woken, now = {}, bucket.now
  local function publish(of_session)
    local to = channel .. string.format('%.0f', of_session)
    if channel ~= '' then redis.pcall(command, to, bucket.key) end -- PUBLISH
  end
  for k = 1, bucket.count do
    local quota = bucket.quotas[k]
    local front = front_of(quota)
    for _, head in ipairs(bucket.heads) do
      if head.quota == quota.id then
        local fits, fitted = front[head] or false, head.fits
        if fits ~= fitted then
          head.fits = fits
          head_changed(bucket, head)
        end
        if head.is_behind and not fits_alone(quota, head.cost, head.headroom) then
          head.is_behind = false
          head_changed(bucket, head)
        end
        local is_news = fits and not fitted or bucket.is_stirred and not head_is_late(head, now)
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
