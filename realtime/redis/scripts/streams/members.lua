-- The consumers of a group: whether they live, and which keys they hold.

-- The keys that a consumer holds: key -> id of the last entry that it holds of the key.
local function keys_held_by(name)
  local found, all = {}, redis.call('HGETALL', owners)
  for at = 1, #all, 2 do
    local owner, last = string.match(all[at + 1], '^(.*) (%d+%-%d+)%+?$')
    if owner == name then
      found[all[at]] = last
    end
  end
  return found
end

-- Whether a consumer has a lease, or has called Redis within `lease` ms: other programs in the group have no leases.
local function is_alive(name, lease)
  if redis.call('EXISTS', leases .. name) == 1 then
    return true
  end
  for _, pairs_of_consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    local found = {}
    for at = 1, #pairs_of_consumer, 2 do
      found[pairs_of_consumer[at]] = pairs_of_consumer[at + 1]
    end
    if found['name'] == name then
      return found['idle'] < tonumber(lease)
    end
  end
  return false
end
