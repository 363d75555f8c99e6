-- Records that attempts begin. Calling it again changes nothing.
-- ARGV[5] worker  ARGV[6…] id, ticket and claim of each task; the claim is unique to this delivery of its entry
-- Returns for each: {"run", fields}; {"lost", fields} if the task has just failed because too many workers died; or
-- {"over"} if there is nothing to do. fields: the hash of the task.
local worker = ARGV[5]

local function begin(id, ticket, claim)
  local task = tasks .. id
  local found = redis.call('HMGET', task, 'status', 'ticket', 'claim', 'workers', 'deaths_limit')
  local status, workers = found[1], found[4]
  if found[2] ~= ticket or status ~= 'READY' and status ~= 'RUNNING' then
    return {'over'}
  end
  if status == 'READY' or found[3] ~= claim then
    if status == 'RUNNING' then
      local dead = string.match(workers, '[^ ]+$')
      add_error(id, cjson.encode({
        class = 'realtime.exceptions.WorkerLost',
        traceback = 'The worker ' .. dead .. ' was lost while it ran the task: it ended, or it stood still for longer than its lease.\n',
      }))
      if redis.call('HINCRBY', task, 'deaths', 1) >= tonumber(found[5]) then
        finish(id, 'FAILED')
        return {'lost', redis.call('HGETALL', task)}
      end
    end
    workers = workers and workers .. ' ' .. worker or worker
    redis.call('HSET', task, 'status', 'RUNNING', 'claim', claim, 'workers', workers, 'attempted', ms(now))
    redis.call('HSETNX', task, 'started', ms(now))
  end
  return {'run', redis.call('HGETALL', task)}
end

local begun = {}
for at = 6, #ARGV, 3 do
  begun[#begun + 1] = begin(ARGV[at], ARGV[at + 1], ARGV[at + 2])
end
return begun
