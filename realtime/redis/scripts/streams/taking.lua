-- The steps of `take`: with one backlog, and with new entries.

-- Parks an entry again whose record was deleted, with no attempts, if the stream still has it. Returns the new record,
-- or nil.
local function park_again(id, key)
  local entry = redis.call('HEXISTS', parked, id) == 0 and redis.call('XRANGE', stream, id, id)[1]
  if entry and key_of(id, entry[2]) == key then
    park(id, key, entry[2], {attempts = 0, deaths = 0, seen = ms(now), due_at = 0})
    return read_parked(id)
  end
end

-- Makes an unreadable parked entry a dead letter, so that newer entries do not wait behind it. An operator may replay it
-- if the stream still has it. Returns 1, or 0 if there is no record.
local function dead_letter_unreadable(id, key, place, letters_limit)
  local found = redis.call('HGET', parked, id)
  redis.call('ZREM', backlogs .. key, place)
  if not found then
    return 0
  end
  local entry = redis.call('XRANGE', stream, id, id)[1]
  local fields = entry and entry[2] or {'kept', found}
  dead_letter(id, key, 'unreadable', 0, 'its parked record cannot be read', now, fields, letters_limit)
  return 1
end

-- Adds the oldest due entries of a backlog to `taken`; a suspect alone. Returns the id of the last one, and how many could
-- not be read.
local function take_backlog(key, room, taken, suspect_from, max_attempts, letters_limit)
  local last, unreadable = nil, 0
  for _, place in ipairs(redis.call('ZRANGE', backlogs .. key, 0, room - 1)) do
    local id = id_at(place)
    local record = read_parked(id) or park_again(id, key)
    local fields = record and fields_of(record)
    if not fields then
      unreadable = unreadable + dead_letter_unreadable(id, key, place, letters_limit)
    elseif tonumber(record.due_at) > now then
      break
    else
      -- An attempt with a suspect is counted when the worker begins it.
      local is_begun = record.deaths < suspect_from and record.attempts < max_attempts
      if not is_begun and last then
        break
      end
      record.attempts, record.due_at = record.attempts + (is_begun and 1 or 0), is_begun and BEGUN or UNBEGUN
      write_parked(id, record)
      last = id
      taken[#taken + 1] = {id, record.attempts, is_begun and 1 or 0, tonumber(record.seen), fields}
      if not is_begun then
        break
      end
    end
  end
  return last, unreadable
end

-- Of entries that this consumer has just read, parks those whose key another consumer holds or has a backlog.
-- Returns the others, and how many were parked.
local function keep_order(entries)
  local keys, mine, free, count, own = {}, {}, {}, 0, consumer .. ' '
  for at, entry in ipairs(entries) do
    keys[at] = key_of(entry[1], entry[2])
  end
  local found = redis.call('HMGET', owners, unpack(keys))
  for at, entry in ipairs(entries) do
    local key, owner = keys[at], found[at]
    if not owner or string.sub(owner, 1, #own) == own and not string.find(owner, '[ +]', #own + 1) then
      local place = at - count
      mine[place] = entry
      free[2 * place - 1], free[2 * place] = key, own .. entry[1]
    else
      park(entry[1], key, entry[2], {attempts = 0, deaths = 0, seen = ms(now), due_at = 0})
      redis.call('XACK', stream, group, entry[1])
      count = count + 1
    end
  end
  if #free > 0 then
    redis.call('HSET', owners, unpack(free))
  end
  return mine, count
end

local function last_delivered()
  for _, pairs_of_group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local found = {}
    for at = 1, #pairs_of_group, 2 do
      found[pairs_of_group[at]] = pairs_of_group[at + 1]
    end
    if found['name'] == group then
      return found['last-delivered-id']
    end
  end
  return ''
end
