-- When a bucket has to look at a record of its own again: an index, so that what ends is found
-- without a look at all that does not. A sorted set in a key of its own: the score is the time; a
-- member is "f" (flow), "q" (quota that is set aside) or "s" (session or claim) and the id in
-- hexadecimal digits, so that what is due at one time comes in Rust's order. The bucket knows
-- `due_first`, before which nothing is due, and `due_count`, how many members there should be: if
-- the server has evicted the key, it is made anew.

-- RARE changes

local LOOKS = 16

local function due_member(kind, id)
  return kind .. string.format('%014x', id)
end

-- Adds a record, or moves it.
function changes.due_insert(bucket, at, kind, id)
  bucket.due_count = bucket.due_count + redis.call('ZADD', bucket.due_key, at, due_member(kind, id))
  bucket.due_first, bucket.due_changed = min(bucket.due_first, at), true
end

local function due_remove(bucket, kind, id)
  bucket.due_count = bucket.due_count - redis.call('ZREM', bucket.due_key, due_member(kind, id))
end

-- The index is lost: every record is due, so that all of them are looked at.
local function due_rebuild(bucket)
  local kinds = {f = 'f', o = 'q', r = 's'}
  for _, field in ipairs(redis.call('HKEYS', bucket.key)) do
    local kind = kinds[string.sub(field, 1, 1)]
    if kind and #field == 9 then
      changes.due_insert(bucket, bucket.now, kind, (struct.unpack('<d', field, 2)))
    end
  end
  bucket.due_count = redis.call('ZCARD', bucket.due_key)
end

-- Takes out some of what is due: a list of kind and id in turns.
local function due_taken(bucket)
  if redis.call('ZCARD', bucket.due_key) ~= bucket.due_count then due_rebuild(bucket) end
  local members = redis.call('ZRANGEBYSCORE', bucket.due_key, '-inf', bucket.now, 'LIMIT', 0, LOOKS)
  local taken = {}
  for _, member in ipairs(members) do
    local kind, id = string.sub(member, 1, 1), tonumber(string.sub(member, 2), 16)
    due_remove(bucket, kind, id)
    taken[#taken + 1], taken[#taken + 2] = kind, id
  end
  return taken
end

-- Finds out when something is due next.
local function due_look(bucket)
  local first =
    redis.call('ZRANGEBYSCORE', bucket.due_key, '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  bucket.due_first = tonumber(first[2]) or MAX_AMOUNT
end
