-- Reads where topics stand and what came on each after an offset, as of one moment.
-- A topic without a counter gets one: whoever hears the topic has an epoch to come back with.
-- KEYS of each: position, a hash {offset, epoch}; history, a list, newest first
-- ARGV of each: the offset. Behind all of them: age in ms of a counter that nobody has published on, an epoch for
--   counters that begin
-- Returns {offset, epoch, payloads, newest first} of each
local histories = {}
for i = 1, #KEYS / 2 do
  local key, history = KEYS[2 * i - 1], KEYS[2 * i]
  local offset, epoch = unpack(redis.call('HMGET', key, 'offset', 'epoch'))
  if epoch then
    local missed = offset - ARGV[i]
    histories[i] = {tonumber(offset), epoch, missed > 0 and redis.call('LRANGE', history, 0, missed - 1) or {}}
  else
    -- A full Redis refuses this. The next reader then sees another epoch, so that nobody believes to have missed nothing.
    redis.pcall('HSET', key, 'offset', 0, 'epoch', ARGV[#ARGV])
    redis.pcall('PEXPIRE', key, ARGV[#ARGV - 1])
    histories[i] = {0, ARGV[#ARGV], {}}
  end
end
return histories
