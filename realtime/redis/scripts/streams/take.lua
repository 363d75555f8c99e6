-- Hands a worker entries of due backlogs, then new entries; never one while an older entry of its key is unfinished.
-- KEYS[7] dead-letter stream  KEYS[8…9] the waiting list, if the stream has one (feeding.lua)
-- ARGV[4] lease token  ARGV[5] lease, ms  ARGV[6] limit of entries  ARGV[7] limit of parked entries
-- ARGV[8] deaths from which an entry is suspect  ARGV[9] max attempts  ARGV[10] limit of the dead-letter stream
-- Returns {redelivered: {id, attempts, begun, seen, fields}…, new: {id, fields}…, how many were parked, ms until the next
-- backlog is due or -1, the group's last delivered id, 1 if the limit of parked entries is reached, now, how many parked
-- entries could not be read}; nil if the lease is not the worker's any more.
if redis.call('GET', leases .. consumer) ~= ARGV[4] then
  return false
end
redis.call('PEXPIRE', leases .. consumer, ARGV[5])
local room, limit = tonumber(ARGV[6]), tonumber(ARGV[7])
local again, new, parked_count, unreadable = {}, {}, 0, 0
local ready = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, room)
if #ready > 0 then
  -- Fails if the group was deleted. A later failure would lose the entries handed out so far: no reply would be sent.
  redis.call('XPENDING', stream, group, '-', '+', 1)
end
for _, key in ipairs(ready) do
  if room <= #again then
    break
  end
  local last, count = take_backlog(key, room - #again, again, tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10])
  unreadable = unreadable + count
  if last then
    redis.call('ZREM', due, key)
    redis.call('HSET', owners, key, consumer .. ' ' .. last .. '+')
  else
    release_key(key)
  end
end
local count = math.min(room - #again, limit - redis.call('HLEN', parked))
if KEYS[8] then
  move_due()
end
if count > 0 then
  local reply = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', stream, '>')
  new = reply and reply[1][2] or new
  new = KEYS[8] and without_wakeups(new) or new
  if KEYS[8] and #new < count and redis.call('EXISTS', KEYS[8]) == 1 then
    for _, entry in ipairs(feed(count - #new)) do
      new[#new + 1] = entry
    end
  end
  if order ~= '' and #new > 0 then
    new, parked_count = keep_order(new)
  end
end
local last = ''
if #again + #new + parked_count == 0 then
  last = last_delivered()
end
local wait = -1
for _, times in ipairs({due, KEYS[9]}) do
  local next_due = redis.call('ZRANGE', times, 0, 0, 'WITHSCORES')[2]
  if next_due then
    local ms_left = math.max(0, tonumber(next_due) - now)
    wait = wait < 0 and ms_left or math.min(wait, ms_left)
  end
end
return {again, new, parked_count, wait, last, (limit <= redis.call('HLEN', parked)) and 1 or 0, ms(now), unreadable}
