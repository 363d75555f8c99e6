-- What `take` does with one line, and with what is new.

-- The record of an entry was deleted: if the stream still has the entry, it is recorded again, with no attempts.
-- Returns the new record, or nil.
local function keep_anew(id, key)
  local entry = redis.call('HEXISTS', kept, id) == 0 and redis.call('XRANGE', stream, id, id)[1]
  if entry and key_of(id, entry[2]) == key then
    line_up(id, key, entry[2], {attempts = 0, deaths = 0, seen = ms(now), due_at = 0})
    return read_kept(id)
  end
end

-- Nobody can handle what stands in a line and cannot be read, and nothing waits behind it. An operator may look at it, and
-- replay it if the stream still has it. Returns 1, or 0 if there is nothing.
local function bury_unreadable(id, key, place, letters_limit)
  local found = redis.call('HGET', kept, id)
  redis.call('ZREM', lines .. key, place)
  if not found then
    return 0
  end
  local entry = redis.call('XRANGE', stream, id, id)[1]
  bury(id, key, 'unreadable', 0, 'what was kept of it cannot be read', now, entry and entry[2] or {'kept', found}, letters_limit)
  return 1
end

-- Hands out the oldest entries of a line that are due, into `taken`; a suspect alone. Returns the id of the last one, and
-- how many could not be read.
local function take_line(key, room, taken, suspect_from, max_attempts, letters_limit)
  local last, unreadable = nil, 0
  for _, place in ipairs(redis.call('ZRANGE', lines .. key, 0, room - 1)) do
    local id = id_at(place)
    local record = read_kept(id) or keep_anew(id, key)
    local fields = record and fields_of(record)
    if not fields then
      unreadable = unreadable + bury_unreadable(id, key, place, letters_limit)
    elseif tonumber(record.due_at) > now then
      break
    else
      -- An attempt with what may kill its worker begins when the worker says so.
      local is_begun = record.deaths < suspect_from and record.attempts < max_attempts
      if not is_begun and last then
        break
      end
      record.attempts, record.due_at = record.attempts + (is_begun and 1 or 0), is_begun and BEGUN or UNBEGUN
      write_kept(id, record)
      last = id
      taken[#taken + 1] = {id, record.attempts, is_begun and 1 or 0, tonumber(record.seen), fields}
      if not is_begun then
        break
      end
    end
  end
  return last, unreadable
end

-- Of entries that this consumer was just handed, lines up those whose key another holds, or that has a line.
-- Returns the others, and how many were lined up.
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
      line_up(entry[1], key, entry[2], {attempts = 0, deaths = 0, seen = ms(now), due_at = 0})
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
