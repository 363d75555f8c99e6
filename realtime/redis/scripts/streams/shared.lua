-- The beginning of every script of the stream worker: its keys, and functions for entries. See realtime/streams/group.py.
-- KEYS[1] stream  KEYS[2] owners, a hash key → "consumer last-id", followed by "+" if the key has a backlog, or "+" alone
-- KEYS[3] parked, a hash id → "attempts deaths first-seen-ms due-ms fields"  KEYS[4] due, a sorted set key → ms
-- KEYS[5] prefix of backlogs, sorted sets of parked ids by key  KEYS[6] prefix of the leases of workers
-- ARGV[1] group  ARGV[2] consumer  ARGV[3] the field whose value is the key of an entry, or "" for no order
local stream, owners, parked, due, backlogs, leases, letters = unpack(KEYS)
local group, consumer, order = unpack(ARGV, 1, 3)
-- Written instead of the due time while the owner of its key has the entry in flight: its attempt has begun, or not yet.
local BEGUN, UNBEGUN = '1', '2'
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function ms(number)
  return string.format('%.0f', number)
end

local function key_of(id, fields)
  for at = 1, order ~= '' and #fields or 0, 2 do
    if fields[at] == order then
      return #fields[at + 1] <= 100 and fields[at + 1] or redis.sha1hex(fields[at + 1])
    end
  end
  return id
end

-- The member of an id in a backlog: members sort as ids do.
local function place_of(id)
  local time, number = string.match(id, '^(%d+)-(%d+)$')
  return string.rep('0', 20 - #time) .. time .. '-' .. string.rep('0', 20 - #number) .. number
end

local function id_at(place)
  return (string.gsub(string.gsub(place, '^0+(%d)', '%1'), '%-0+(%d)', '-%1'))
end

-- The consumer that holds a key, the last id that it holds, and whether the key has a backlog; "", "" if not held.
local function owner_of(key)
  local owner = redis.call('HGET', owners, key)
  if not owner then
    return '', '', false
  end
  local name, last, more = string.match(owner, '^(.*) (%d+%-%d+)(%+?)$')
  return name or '', last or '', more ~= ''
end

-- The record of a parked entry; nil if there is none, or if it cannot be read.
local function read_parked(id)
  local record = redis.call('HGET', parked, id) or ''
  local attempts, deaths, seen, due_at, fields = string.match(record, '^(%d+) (%d+) (%d+) (%d+) (.*)$')
  if attempts then
    return {attempts = tonumber(attempts), deaths = tonumber(deaths), seen = seen, due_at = due_at, fields = fields}
  end
end

-- The fields of a parked entry; nil if they cannot be read.
local function fields_of(record)
  local is_read, fields = pcall(cmsgpack.unpack, record.fields)
  return is_read and type(fields) == 'table' and fields or nil
end

-- Whether the owner of its key has a parked entry. A replayed entry may be in the backlog of a held key without being
-- handed to the owner.
local function is_in_flight(record)
  return record.due_at == BEGUN or record.due_at == UNBEGUN
end

local function write_parked(id, record)
  local numbers = {record.attempts, record.deaths, record.seen, record.due_at}
  redis.call('HSET', parked, id, table.concat(numbers, ' ') .. ' ' .. record.fields)
end

-- Adds an entry to the backlog of its key, in the order of ids.
local function park(id, key, fields, record)
  record.fields = cmsgpack.pack(fields)
  write_parked(id, record)
  redis.call('ZADD', backlogs .. key, 0, place_of(id))
  local owner = redis.call('HGET', owners, key)
  if owner and string.sub(owner, -1) ~= '+' then
    redis.call('HSET', owners, key, owner .. '+')
  end
end

local function remove_parked(id, key)
  redis.call('ZREM', backlogs .. key, place_of(id))
  return redis.call('HDEL', parked, id) == 1
end

-- Releases a key: its backlog is due when its oldest entry is. Returns 1 if the key has a backlog, else 0.
local function release_key(key)
  local oldest = redis.call('ZRANGE', backlogs .. key, 0, 0)[1]
  if not oldest then
    redis.call('HDEL', owners, key)
    redis.call('ZREM', due, key)
    return 0
  end
  local record = read_parked(id_at(oldest))
  local due_at = record and tonumber(record.due_at) or 0
  redis.call('HSET', owners, key, '+')
  redis.call('ZADD', due, ms(math.max(due_at, now)), key)
  return 1
end

-- Releases a key from this entry on. The consumer keeps the key while it holds an older entry, whose ack is on its way:
-- otherwise that entry would be delivered again. Returns 1 if the backlog got a due time, else 0.
local function release_key_from(key, id)
  local place = redis.call('ZREVRANGEBYLEX', backlogs .. key, '(' .. place_of(id), '-', 'LIMIT', 0, 1)[1]
  local record = place and read_parked(id_at(place))
  if not record or not is_in_flight(record) then
    return release_key(key)
  end
  redis.call('HSET', owners, key, consumer .. ' ' .. id_at(place) .. '+')
  return 0
end

-- For an entry that this consumer holds: its attempts, where it is, and when it was first seen. nil if not held.
local function held(id, key)
  local pending = redis.call('XPENDING', stream, group, id, id, 1, consumer)[1]
  if pending then
    return pending[4], 'pending', now - pending[3]
  end
  local record = read_parked(id)
  if record and is_in_flight(record) and owner_of(key) == consumer then
    return record.attempts, 'parked', tonumber(record.seen)
  end
end
