-- Discards tasks: one that waits fails with TaskDiscarded, one that has finished is deleted.
-- ARGV[5…] ids
-- Returns how many were discarded. The others are running, or do not exist.
local count = 0
for at = 5, #ARGV do
  local id = ARGV[at]
  local found = redis.call('HMGET', tasks .. id, 'status', 'priority', 'ticket', 'unique')
  if found[1] == 'READY' then
    local item = found[2] .. ':' .. id .. '#' .. found[3]
    redis.call('ZREM', waiting, item)
    redis.call('ZREM', scheduled, item)
    add_error(id, cjson.encode({
      class = 'realtime.exceptions.TaskDiscarded', traceback = 'The task was discarded before it ran.\n',
    }))
    finish(id, 'FAILED', found[4])
    count = count + 1
  elseif found[1] == 'FAILED' or found[1] == 'SUCCESSFUL' then
    redis.call('ZREM', successful, id)
    redis.call('ZREM', failed, id)
    count = count + redis.call('DEL', tasks .. id)
  end
end
return count
