-- The waiting list in front of a stream: its items are appended to the stream when a worker has room for them.
-- KEYS[8] waiting: a sorted set "priority:name" → its place in the list  KEYS[9] scheduled: the same → ms when it is due

-- Moves items that are due from `scheduled` to `waiting`.
local function move_due()
  local found = redis.call('ZRANGEBYSCORE', KEYS[9], '-inf', ms(now), 'WITHSCORES', 'LIMIT', 0, 1000)
  for at = 1, #found, 2 do
    local priority = tonumber(string.match(found[at], '^(-?%d+):')) or 0
    redis.call('ZADD', KEYS[8], ms(place_in_list(priority, 1000 * tonumber(found[at + 1]))), found[at])
    redis.call('ZREM', KEYS[9], found[at])
  end
end

-- Acks those of the entries that this consumer has just read which only wake a worker. Returns the others.
local function without_wakeups(entries)
  local kept = {}
  for _, entry in ipairs(entries) do
    if entry[2] and entry[2][1] == 'wake' then
      redis.call('XACK', stream, group, entry[1])
    else
      kept[#kept + 1] = entry
    end
  end
  return kept
end

-- Appends the first items of the list to the stream. Returns the new entries, read by this consumer.
local function feed(count)
  local found = redis.call('ZPOPMIN', KEYS[8], count)
  for at = 1, #found, 2 do
    redis.call('XADD', stream, '*', 'item', found[at])
  end
  local reply = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', stream, '>')
  return without_wakeups(reply and reply[1][2] or {})
end
