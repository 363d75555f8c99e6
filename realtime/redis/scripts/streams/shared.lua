-- What the scripts of the stream worker begin with: names, and where an entry may be. See realtime/streams/group.py.
-- KEYS[1] stream  KEYS[2] owners, a hash key → "consumer last-id", with "+" behind it if there is a line, or "+" alone
-- KEYS[3] kept, a hash id → "attempts deaths first-seen-ms not-before-ms fields"  KEYS[4] due, a sorted set key → ms
-- KEYS[5] prefix of lines, sorted sets of kept ids by key  KEYS[6] prefix of the leases of workers
-- ARGV[1] group  ARGV[2] consumer  ARGV[3] the field by whose value entries are kept in order, or ""
local stream, owners, kept, due, lines, leases, letters = unpack(KEYS)
local group, consumer, order = unpack(ARGV, 1, 3)
-- In a kept entry in the place of its not-before, while it is in its owner's hands: its attempt has begun, or not yet.
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

-- The name of an id in a line: sorts as ids do.
local function place_of(id)
  local time, number = string.match(id, '^(%d+)-(%d+)$')
  return string.rep('0', 20 - #time) .. time .. '-' .. string.rep('0', 20 - #number) .. number
end

local function id_at(place)
  return (string.gsub(string.gsub(place, '^0+(%d)', '%1'), '%-0+(%d)', '-%1'))
end

-- Who holds the key, up to which id, and whether there is a line; "" and "" if nobody does.
local function owner_of(key)
  local owner = redis.call('HGET', owners, key)
  if not owner then
    return '', '', false
  end
  local name, last, more = string.match(owner, '^(.*) (%d+%-%d+)(%+?)$')
  return name or '', last or '', more ~= ''
end

-- A kept entry; nil if there is none, or none that can be read.
local function read_kept(id)
  local record = redis.call('HGET', kept, id) or ''
  local attempts, deaths, seen, due_at, fields = string.match(record, '^(%d+) (%d+) (%d+) (%d+) (.*)$')
  if attempts then
    return {attempts = tonumber(attempts), deaths = tonumber(deaths), seen = seen, due_at = due_at, fields = fields}
  end
end

-- The fields of a kept entry; nil if they cannot be read.
local function fields_of(record)
  local is_read, fields = pcall(cmsgpack.unpack, record.fields)
  return is_read and type(fields) == 'table' and fields or nil
end

-- A line may also hold what is older than what the owner of its key has, and was handed to nobody: an operator put it back.
local function is_in_hand(record)
  return record.due_at == BEGUN or record.due_at == UNBEGUN
end

local function write_kept(id, record)
  local numbers = {record.attempts, record.deaths, record.seen, record.due_at}
  redis.call('HSET', kept, id, table.concat(numbers, ' ') .. ' ' .. record.fields)
end

-- Takes an entry into the line of its key, behind all that are older and before all that are newer.
local function line_up(id, key, fields, record)
  record.fields = cmsgpack.pack(fields)
  write_kept(id, record)
  redis.call('ZADD', lines .. key, 0, place_of(id))
  local owner = redis.call('HGET', owners, key)
  if owner and string.sub(owner, -1) ~= '+' then
    redis.call('HSET', owners, key, owner .. '+')
  end
end

local function remove_kept(id, key)
  redis.call('ZREM', lines .. key, place_of(id))
  return redis.call('HDEL', kept, id) == 1
end

-- Nobody holds the key any more: its line is due when its oldest entry is. Returns 1 if there is a line, else 0.
local function settle(key)
  local oldest = redis.call('ZRANGE', lines .. key, 0, 0)[1]
  if not oldest then
    redis.call('HDEL', owners, key)
    redis.call('ZREM', due, key)
    return 0
  end
  local record = read_kept(id_at(oldest))
  local due_at = record and tonumber(record.due_at) or 0
  redis.call('HSET', owners, key, '+')
  redis.call('ZADD', due, ms(math.max(due_at, now)), key)
  return 1
end

-- A consumer gives back the entries of a key from this one on. It keeps the key while it holds an older entry, whose
-- ack is on its way: otherwise that entry would be delivered again. Returns 1 if a line is due now, else 0.
local function let_go(key, id)
  local place = redis.call('ZREVRANGEBYLEX', lines .. key, '(' .. place_of(id), '-', 'LIMIT', 0, 1)[1]
  local record = place and read_kept(id_at(place))
  if not record or not is_in_hand(record) then
    return settle(key)
  end
  redis.call('HSET', owners, key, consumer .. ' ' .. id_at(place) .. '+')
  return 0
end

-- The attempts begun with an entry that this consumer holds, where it is, and since when it is known; nil if not held.
local function held(id, key)
  local pending = redis.call('XPENDING', stream, group, id, id, 1, consumer)[1]
  if pending then
    return pending[4], 'pending', now - pending[3]
  end
  local record = read_kept(id)
  if record and is_in_hand(record) and owner_of(key) == consumer then
    return record.attempts, 'kept', tonumber(record.seen)
  end
end
