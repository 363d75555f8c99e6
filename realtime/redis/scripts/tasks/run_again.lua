-- Lets finished tasks run again, with as many attempts as a new task. Their earlier workers and errors stay recorded.
-- ARGV[5…] ids
-- Returns how many will run. The others have not finished, or another unfinished task has their unique key.
local count = 0
for at = 5, #ARGV do
  local id = ARGV[at]
  local task = tasks .. id
  local found = redis.call('HMGET', task, 'status', 'unique', 'priority')
  local is_finished = found[1] == 'FAILED' or found[1] == 'SUCCESSFUL'
  if is_finished and (not found[2] or redis.call('SET', uniques .. found[2], id, 'NX')) then
    redis.call('HDEL', task, 'finished', 'value', 'deaths')
    local earlier = redis.call('HGET', task, 'workers')
    local _, spaces = string.gsub(earlier or '', ' ', '')
    redis.call('HSET', task, 'status', 'READY', 'earlier_attempts', earlier and spaces + 1 or 0)
    redis.call('PERSIST', task)
    redis.call('ZREM', successful, id)
    redis.call('ZREM', failed, id)
    place(id, tonumber(found[3]), now_us, 0)
    count = count + 1
  end
end
return count
