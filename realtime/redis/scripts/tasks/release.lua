-- Gives back tasks because their worker stops or is busy. They wait again, at their earlier place in the list.
-- ARGV[5] 1 if their functions have begun, so that the attempts count; otherwise 0
-- ARGV[6…] id and claim of each
-- Returns how many have failed instead, because they are not to run again.
local failed_count = 0
for at = 6, #ARGV, 2 do
  local id, claim = ARGV[at], ARGV[at + 1]
  local task = tasks .. id
  local found = redis.call('HMGET', task, 'claim', 'status', 'workers', 'priority', 'since', 'deaths_limit', 'unique')
  if found[1] == claim and found[2] == 'RUNNING' then
    local workers = string.match(found[3], '^(.*) [^ ]+$')
    redis.call('HSET', task, 'status', 'READY')
    -- If the function still runs and ends later, that end is not recorded.
    redis.call('HDEL', task, 'claim')
    if ARGV[5] == '1' then
      add_error(id, cjson.encode({
        class = 'realtime.exceptions.WorkerStopped',
        traceback = 'The worker stopped before the task had ended: its deadline was over.\n',
      }))
    elseif workers then
      redis.call('HSET', task, 'workers', workers)
    else
      redis.call('HDEL', task, 'workers', 'started', 'attempted')
    end
    if ARGV[5] == '1' and found[6] == '1' then
      finish(id, 'FAILED', found[7])
      failed_count = failed_count + 1
    else
      place(id, tonumber(found[4]), tonumber(found[5] or now_us), 0)
    end
  end
end
return failed_count
