-- Gives publications their offsets, adds them to the histories and publishes them: in order, once per idempotency key.
-- KEYS of each: position, a hash {offset, epoch}; history, a list, newest first; idempotency key (or any)
-- ARGV of each: Redis channel, frame before its offset, frame after it, history size (0: none), history age in ms,
--   idempotency window in ms (0: none). After all of them: position age in ms, an epoch for new counters
-- Returns offset, epoch, receivers of each; receivers is -1 if it was published before with the same key.
local call, published = redis.call, {}
for i = 0, #KEYS / 3 - 1 do
  local position, history, once = unpack(KEYS, 3 * i + 1, 3 * i + 3)
  local channel, before, after, size, age, window = unpack(ARGV, 6 * i + 1, 6 * i + 6)
  local receivers, number, epoch = -1, string.match(window ~= '0' and call('GET', once) or '', '^(%d+):(.*)$')
  if not number then
    number = string.format('%.0f', call('HINCRBY', position, 'offset', 1))
    epoch = call('HGET', position, 'epoch')
    if not epoch then
      epoch = ARGV[#ARGV]
      call('HSET', position, 'epoch', epoch)
      call('DEL', history)
    end
    call('PEXPIRE', position, math.max(ARGV[#ARGV - 1], age))
    local payload = '\193' .. epoch .. ':' .. number .. '\n' .. before .. number .. after
    if size ~= '0' then
      if call('LPUSH', history, payload) > tonumber(size) then call('LTRIM', history, 0, size - 1) end
      call('PEXPIRE', history, age)
    end
    if window ~= '0' then call('SET', once, number .. ':' .. epoch, 'PX', window) end
    receivers = call('PUBLISH', channel, payload)
  end
  published[3 * i + 1], published[3 * i + 2], published[3 * i + 3] = tonumber(number), epoch, receivers
end
return published
