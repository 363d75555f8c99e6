-- Hands a worker what is due in the lines, then what is new; never an entry while an older one of its key is unfinished.
-- KEYS[7] dead-letter stream
-- ARGV[4] the worker's session  ARGV[5] its lease, ms  ARGV[6] at most so many  ARGV[7] the most entries to keep
-- ARGV[8] deaths from which an entry is suspect  ARGV[9] attempts that an entry has  ARGV[10] the most dead letters
-- Returns {from lines: {id, attempts, begun, seen, fields}…, new: {id, fields}…, how many were lined up, ms until the
-- next line is due or -1, the last id that the group was handed, whether no more may be kept, now, how many
-- of the lines could not be read}; nil if the session is not the worker's any more.
if redis.call('GET', leases .. consumer) ~= ARGV[4] then
  return false
end
redis.call('PEXPIRE', leases .. consumer, ARGV[5])
local room, limit = tonumber(ARGV[6]), tonumber(ARGV[7])
local again, new, lined_up, unreadable = {}, {}, 0, 0
local ready = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, room)
if #ready > 0 then
  -- Fails if the group is gone. Failing later would lose the lines that were handed out, as no answer would be sent.
  redis.call('XPENDING', stream, group, '-', '+', 1)
end
for _, key in ipairs(ready) do
  if room <= #again then
    break
  end
  local last, count = take_line(key, room - #again, again, tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10])
  unreadable = unreadable + count
  if last then
    redis.call('ZREM', due, key)
    redis.call('HSET', owners, key, consumer .. ' ' .. last .. '+')
  else
    settle(key)
  end
end
local count = math.min(room - #again, limit - redis.call('HLEN', kept))
if count > 0 then
  local reply = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', stream, '>')
  new = reply and reply[1][2] or new
  if order ~= '' and #new > 0 then
    new, lined_up = keep_order(new)
  end
end
local last = ''
if #again + #new + lined_up == 0 then
  last = last_delivered()
end
local next_due = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')[2]
local wait = next_due and math.max(0, tonumber(next_due) - now) or -1
return {again, new, lined_up, wait, last, (limit <= redis.call('HLEN', kept)) and 1 or 0, ms(now), unreadable}
