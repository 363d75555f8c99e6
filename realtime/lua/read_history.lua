-- Reads where a topic stands and what came after an offset, as of one moment.
-- A topic without a counter gets one: whoever hears the topic has an epoch to come back with.
-- KEYS[1] position, a hash {offset, epoch}  KEYS[2] history, a list, newest first
-- ARGV[1] the offset  ARGV[2] age of a counter that nobody has published on, ms
-- ARGV[3] an epoch, should a new counter begin
-- Returns {offset, epoch, payloads, newest first}
local position = redis.call('HMGET', KEYS[1], 'offset', 'epoch')
local offset, epoch = tonumber(position[1] or 0), position[2]
if not epoch then
  -- A full Redis refuses this. The next reader then sees another epoch, so that nobody believes to have missed nothing.
  redis.pcall('HSET', KEYS[1], 'offset', 0, 'epoch', ARGV[3])
  redis.pcall('PEXPIRE', KEYS[1], ARGV[2])
  return {0, ARGV[3], {}}
end
local missed = offset - ARGV[1]
return {offset, epoch, missed > 0 and redis.call('LRANGE', KEYS[2], 0, missed - 1) or {}}
