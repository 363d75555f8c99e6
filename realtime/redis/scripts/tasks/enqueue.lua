-- Enqueues a task once.
-- ARGV[5] id  ARGV[6] ms when it is due, or 0  ARGV[7] priority  ARGV[8] unique key or ""
-- ARGV[9] the most tasks that may wait  ARGV[10…] fields and values of the task
-- Returns the id of the task and the ms when it was enqueued. If an unfinished task has the same unique key, those of that
-- task. If the queue is full, an empty list.
local id, due, priority, unique = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
local enqueued = redis.call('HGET', tasks .. id, 'enqueued')
if enqueued then
  return {id, enqueued}
end
local is_full = redis.call('ZCARD', waiting) + redis.call('ZCARD', scheduled) >= tonumber(ARGV[9])
if unique ~= '' then
  local holder = redis.call('GET', uniques .. unique)
  local found = redis.call('HMGET', tasks .. (holder or ''), 'status', 'enqueued')
  if found[1] == 'READY' or found[1] == 'RUNNING' then
    return {holder, found[2]}
  end
  if not is_full then
    redis.call('SET', uniques .. unique, id)
    redis.call('HSET', tasks .. id, 'unique', unique)
  end
end
if is_full then
  return {}
end
redis.call(
  'HSET', tasks .. id, 'status', 'READY', 'enqueued', ms(now), 'priority', priority, 'ticket', 1,
  'since', ms(math.max(now_us, 1000 * due)), unpack(ARGV, 10)
)
put(priority .. ':' .. id .. '#1', priority, now_us, due)
return {id, ms(now)}
