-- Gives a publication its offset, keeps it in the topic's history, publishes it; once per idempotency key.
-- KEYS[1] position, a hash {offset, epoch}  KEYS[2] history, a list, newest first  KEYS[3] idempotency key, or absent
-- ARGV[1] Redis channel  ARGV[2] frame before its offset  ARGV[3] frame after it  ARGV[4] history size, 0 for none
-- ARGV[5] history age, ms  ARGV[6] position age, ms  ARGV[7] an epoch, should a new counter begin
-- ARGV[8] idempotency window, ms
-- Returns {offset, epoch, receivers}; receivers is -1 if it was published before under the same idempotency key.
local before = KEYS[3] and redis.call('GET', KEYS[3])
if before then
  local epoch, offset = string.match(before, '^(.*):(%d+)$')
  return {tonumber(offset), epoch, -1}
end
local number = string.format('%.0f', redis.call('HINCRBY', KEYS[1], 'offset', 1))
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then
  epoch = ARGV[7]
  redis.call('HSET', KEYS[1], 'epoch', epoch)
  redis.call('DEL', KEYS[2])
end
redis.call('PEXPIRE', KEYS[1], ARGV[6])
local payload = '\193' .. epoch .. ':' .. number .. '\n' .. ARGV[2] .. number .. ARGV[3]
if tonumber(ARGV[4]) > 0 then
  redis.call('LPUSH', KEYS[2], payload)
  redis.call('LTRIM', KEYS[2], 0, ARGV[4] - 1)
  redis.call('PEXPIRE', KEYS[2], ARGV[5])
end
if KEYS[3] then
  redis.call('SET', KEYS[3], epoch .. ':' .. number, 'PX', ARGV[8])
end
return {tonumber(number), epoch, redis.call('PUBLISH', ARGV[1], payload)}
