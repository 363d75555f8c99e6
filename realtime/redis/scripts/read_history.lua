-- Reads the positions of topics, and the publications of each after an offset, as of one moment.
-- A topic without a counter gets one, so that each subscriber has an epoch to resume with.
-- KEYS of each: position, a hash {offset, epoch}; history, a list, newest first
-- ARGV of each: the offset. After all of them: age in ms of a counter without publications, an epoch for new counters
-- Returns {offset, epoch, payloads (newest first)} of each
local histories = {}
for i = 1, #KEYS / 2 do
  local key, history = KEYS[2 * i - 1], KEYS[2 * i]
  local offset, epoch = unpack(redis.call('HMGET', key, 'offset', 'epoch'))
  if epoch then
    local missed = offset - ARGV[i]
    histories[i] = {tonumber(offset), epoch, missed > 0 and redis.call('LRANGE', history, 0, missed - 1) or {}}
  else
    -- A full Redis refuses this. The next reader then gets another epoch, so that no client is wrongly told that it has
    -- missed nothing.
    redis.pcall('HSET', key, 'offset', 0, 'epoch', ARGV[#ARGV])
    redis.pcall('PEXPIRE', key, ARGV[#ARGV - 1])
    histories[i] = {0, ARGV[#ARGV], {}}
  end
end
return histories
