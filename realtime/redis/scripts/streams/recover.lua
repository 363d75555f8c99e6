-- Starts a new lease of a worker, which invalidates its earlier ones, and lists what it holds, oldest first.
-- ARGV[4] lease token  ARGV[5] lease, ms  ARGV[6] limit of pending entries
-- Returns {id, attempts, begun, seen, fields} of each; fields is nil if the entry was deleted from the stream.
redis.call('SET', leases .. consumer, ARGV[4], 'PX', ARGV[5])
-- Redis before 7.0 lists a consumer only from its first entry on. Those who look for idle workers must find it earlier.
redis.call('XGROUP', 'CREATECONSUMER', stream, group, consumer)
local taken, newest = {}, {}
for _, pending in ipairs(redis.call('XPENDING', stream, group, '-', '+', ARGV[6], consumer)) do
  local id, attempts, seen = pending[1], pending[4], now - pending[3]
  local entry = redis.call('XRANGE', stream, id, id)[1]
  local fields, key = entry and entry[2], entry and order ~= '' and key_of(id, entry[2])
  local name = key and owner_of(key)
  if not fields then
    redis.call('XACK', stream, group, id)
    taken[#taken + 1] = {id, attempts, 1, seen, false}
  elseif not key or name == consumer or redis.call('HEXISTS', owners, key) == 0 or newest[key] then
    taken[#taken + 1] = {id, attempts, 1, seen, fields}
    if key then newest[key] = id end
  else
    -- Another program read it, without regard to order: it waits for its turn.
    park(id, key, fields, {attempts = attempts, deaths = 0, seen = ms(seen), due_at = 0})
    redis.call('XACK', stream, group, id)
  end
end
for key, last in pairs(keys_held_by(consumer)) do
  for _, place in ipairs(redis.call('ZRANGEBYLEX', backlogs .. key, '-', '[' .. place_of(last))) do
    local id = id_at(place)
    local record = read_parked(id)
    local fields = record and is_in_flight(record) and fields_of(record)
    if fields then
      taken[#taken + 1] = {id, record.attempts, record.due_at == BEGUN and 1 or 0, tonumber(record.seen), fields}
      newest[key] = id
    end
  end
  if not newest[key] then release_key(key) end
end
for key, id in pairs(newest) do
  local mark = redis.call('EXISTS', backlogs .. key) == 1 and '+' or ''
  redis.call('HSET', owners, key, consumer .. ' ' .. id .. mark)
end
return taken
