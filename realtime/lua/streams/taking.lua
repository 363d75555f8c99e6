-- What `take` does with one line, and with what is new.

-- Hands out the oldest entries of a line that are due, into `taken`; a suspect alone. Returns the id of the last one.
local function take_line(key, room, taken, suspect_from, max_attempts)
  local last
  for _, place in ipairs(redis.call('ZRANGE', lines .. key, 0, room - 1)) do
    local id = id_at(place)
    local record = read_kept(id)
    if not record then
      redis.call('ZREM', lines .. key, place)
    elseif tonumber(record.due_at) > now then
      break
    else
      -- An attempt with what may kill its worker begins when the worker says so.
      local is_begun = record.deaths < suspect_from and record.attempts < max_attempts
      if not is_begun and last then
        break
      end
      if is_begun then
        record.attempts = record.attempts + 1
        write_kept(id, record)
      end
      last = id
      taken[#taken + 1] = {id, record.attempts, is_begun and 1 or 0, tonumber(record.seen), cmsgpack.unpack(record.fields)}
      if not is_begun then
        break
      end
    end
  end
  return last
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
