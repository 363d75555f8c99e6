-- The beginning of every script of the task queue: its keys, and functions for tasks. See realtime/tasks/store.py.
-- KEYS[1] stream  KEYS[2] waiting  KEYS[3] scheduled: the waiting list of the stream, items "priority:id#ticket"
-- KEYS[4] successful and KEYS[5] failed: sorted sets id → when it finished, ms
-- KEYS[6] prefix of the tasks, a hash each  KEYS[7] prefix of unique keys, strings: the id of the task that has the key
-- ARGV[1] group  ARGV[2] prefix of the channels  ARGV[3] ms to keep a successful task  ARGV[4] ms to keep a failed one
local stream, waiting, scheduled, successful, failed, tasks, uniques = unpack(KEYS)
local group, channels, keep_successful_ms, keep_failed_ms = unpack(ARGV, 1, 4)
-- The most successful and the most failed tasks that are listed. Older ones are found only by their id. The same number
-- is in realtime/tasks/status.py.
local LISTED = 10000
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local now_us = clock[1] * 1000000 + clock[2]

local function ms(number)
  return string.format('%.0f', number)
end

-- Whether the stream has an entry that no worker has read. If so, it wakes a worker.
local function has_unread()
  if redis.call('EXISTS', stream) == 0 then
    return false
  end
  local info, newest = redis.call('XINFO', 'STREAM', stream), ''
  for at = 1, #info, 2 do
    newest = info[at] == 'last-generated-id' and info[at + 1] or newest
  end
  for _, fields in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local found = {}
    for at = 1, #fields, 2 do
      found[fields[at]] = fields[at + 1]
    end
    if found['name'] == group then
      return found['last-delivered-id'] ~= newest
    end
  end
  return redis.call('XLEN', stream) > 0
end

-- Wakes idle workers, which wait for new entries of the stream.
local function wake()
  if not has_unread() then
    redis.call('XADD', stream, '*', 'wake', '1')
  end
end

-- Puts an item "priority:id#ticket" into its list: from `due` on, in ms; or, if that has passed, now, as if it had waited
-- since `since`, in µs.
local function put(item, priority, since, due)
  if due > now then
    local first = redis.call('ZRANGE', scheduled, 0, 0, 'WITHSCORES')[2]
    redis.call('ZADD', scheduled, ms(due), item)
    if not first or due < tonumber(first) then
      -- So that idle workers learn of the earlier time.
      wake()
    end
  else
    redis.call('ZADD', waiting, ms(place_in_list(priority, since)), item)
    if redis.call('ZCARD', waiting) == 1 then
      -- If others were waiting already, a worker with room has been woken for them.
      wake()
    end
  end
end

-- Lets a task that has been in a list wait for a worker again. Earlier items of the task become invalid, because its
-- ticket changes. The other arguments are those of `put`.
local function place(id, priority, since, due)
  local item = priority .. ':' .. id .. '#' .. redis.call('HINCRBY', tasks .. id, 'ticket', 1)
  if due <= now then
    redis.call('HSET', tasks .. id, 'since', ms(since))
  end
  put(item, priority, since, due)
end
