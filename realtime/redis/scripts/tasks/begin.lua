-- Records that attempts begin. Calling it again changes nothing.
-- ARGV[5] worker  ARGV[6…] id, ticket and claim of each task; the claim is unique to this delivery of its entry
-- Returns the names of fields, then one list for each task:
-- - {"run", the values of these fields}; missing ones at the end are left out
-- - {"run", nil, the whole hash}: the task has errors
-- - {"lost", nil, the whole hash}: it has just failed, because too many workers died
-- - {"over"}: there is nothing to do
local USED = {'ticket', 'claim', 'deaths_limit', 'unique', 'error_count'}
local RETURNED = {
  'status', 'func', 'call', 'options', 'priority', 'enqueued', 'started', 'attempted', 'workers', 'run_after',
  'earlier_attempts',
}
local names, at = {unpack(RETURNED)}, {}
for _, name in ipairs(USED) do
  names[#names + 1] = name
end
for place, name in ipairs(names) do
  at[name] = place
end
local worker = ARGV[5]

local function begin(id, ticket, claim)
  local task = tasks .. id
  local found = redis.call('HMGET', task, unpack(names))
  local status, workers = found[at.status], found[at.workers]
  if found[at.ticket] ~= ticket or status ~= 'READY' and status ~= 'RUNNING' then
    return {'over'}
  end
  local has_errors = found[at.error_count]
  if status == 'READY' or found[at.claim] ~= claim then
    if status == 'RUNNING' then
      local dead = string.match(workers, '[^ ]+$')
      add_error(id, cjson.encode({
        class = 'realtime.exceptions.WorkerLost',
        traceback = 'The worker ' .. dead .. ' was lost while it ran the task: it ended, or it stood still for longer than its lease.\n',
      }))
      has_errors = true
      if redis.call('HINCRBY', task, 'deaths', 1) >= tonumber(found[at.deaths_limit]) then
        finish(id, 'FAILED', found[at.unique])
        return {'lost', false, redis.call('HGETALL', task)}
      end
    end
    found[at.status], found[at.claim], found[at.attempted] = 'RUNNING', claim, ms(now)
    found[at.workers] = workers and workers .. ' ' .. worker or worker
    found[at.started] = found[at.started] or ms(now)
    redis.call(
      'HSET', task, 'status', 'RUNNING', 'claim', claim, 'attempted', ms(now), 'workers', found[at.workers],
      'started', found[at.started]
    )
  end
  if has_errors then
    return {'run', false, redis.call('HGETALL', task)}
  end
  local last = #RETURNED
  while not found[last] do
    last = last - 1
  end
  return {'run', {unpack(found, 1, last)}}
end

local reply = {RETURNED}
for first = 6, #ARGV, 3 do
  reply[#reply + 1] = begin(ARGV[first], ARGV[first + 1], ARGV[first + 2])
end
return reply
