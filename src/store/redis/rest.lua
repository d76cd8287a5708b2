-- What a bucket saves beside its numbers, its rings and the record of the session.

-- RARE rest

-- Appends the fields that hardly ever change, and deletes those that are gone.
function rest.bucket_save_rest(bucket, fields)
  local gone, n = {}, #fields
  local function put(field, value)
    if value then
      n = n + 2
      fields[n - 1], fields[n] = field, value
    else
      gone[#gone + 1] = field
    end
  end
  for id, note in pairs(bucket.notes or {}) do put('n' .. struct.pack('<d', id), note) end
  if bucket.shapes_changed then put('d', rare.changes.shapes_encoded(bucket)) end
  if bucket.heads_changed then put('h', bucket.heads and rare.waiting.heads_encoded(bucket)) end
  if bucket.has_gates then put('g', rare.provider.gates_encoded(bucket)) end
  if bucket.is_own_gone and not bucket.own then put(record_field, false) end
  for id, record in pairs(bucket.records or {}) do
    put('r' .. struct.pack('<d', id), record and rare.changes.record_encoded(record, {}))
  end
  for id, other in pairs(bucket.others or {}) do
    put('o' .. struct.pack('<d', id), other and rare.changes.other_encoded(other))
    local ring = other and other.ring
    if ring and (ring.touched > 0 or ring.is_changed) then
      put(rare.rings.ring_field(other), rare.rings.ring_packed(other))
    end
  end
  for id, flow in pairs(bucket.flows or {}) do
    if flow and flow.changed then
      local packed = struct.pack('<ddd', flow.start, flow.touched, flow.waits_until)
      put('f' .. struct.pack('<d', id), packed)
    end
  end
  for field in pairs(bucket.gone or {}) do put(field, false) end
  for first = 1, #gone, 1000 do
    redis.call('HDEL', bucket.key, unpack(gone, first, min(first + 999, #gone)))
  end
end
