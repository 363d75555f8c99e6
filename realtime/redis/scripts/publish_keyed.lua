-- As publish.lua, for topics with a snapshot: also keeps the newest publication of each key, and when it came.
-- KEYS of each: position, a hash {offset, epoch, bytes of the snapshot}; history, a list, newest first; snapshot, a hash
--   key → publication; seen, a sorted set of its keys by time in ms; idempotency key (or any)
-- ARGV of each: Redis channel; line before the frame; frame before its offset, frame after it; key; 1 if it is removed;
--   ms (0: publish always; else only if the key has been silent for so long); history size (0: none), history age in ms;
--   idempotency window in ms (0: none); most keys, most bytes, age in ms of the snapshot. After all of them: position age
--   in ms, an epoch for new counters
-- Returns offset, epoch, receivers of each. Instead of receivers: -1 if it was published before with the same idempotency
--   key, -2 if the snapshot is full, -3 if the key was not silent. Nothing was published then.
local call, published, time = redis.call, {}, redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 0, #KEYS / 5 - 1 do
  local position, history, snapshot, seen, once = unpack(KEYS, 5 * i + 1, 5 * i + 5)
  local channel, line, before, after, key, removed, silent, size, age, window, most_keys, most_bytes, kept =
    unpack(ARGV, 13 * i + 1, 13 * i + 13)
  local last, epoch, bytes = unpack(call('HMGET', position, 'offset', 'epoch', 'bytes'))
  local had, count = call('HSTRLEN', snapshot, key), call('HLEN', snapshot)
  if not epoch then had, count = 0, 0 end
  bytes = (count > 0 and tonumber(bytes) or 0) - had
  local next_number = string.format('%.0f', (tonumber(last) or 0) + 1)
  local payload = '\193' .. (epoch or ARGV[#ARGV]) .. ':' .. next_number .. '\n' .. line .. before .. next_number .. after
  local receivers, number, its_epoch = -1, string.match(window ~= '0' and call('GET', once) or '', '^(%d+):(.*)$')
  if number then
    epoch = its_epoch
  elseif silent ~= '0' and tonumber(call('ZSCORE', seen, key) or now) > now - silent then
    receivers = -3
  elseif removed == '0' and (had == 0 and count >= tonumber(most_keys)
      or #payload > had and bytes + #payload > tonumber(most_bytes)) then
    receivers = -2
  else
    number = next_number
    if not epoch then
      epoch = ARGV[#ARGV]
      call('DEL', history, snapshot, seen)
    end
    bytes = bytes + (removed == '1' and 0 or #payload)
    call('HSET', position, 'offset', number, 'epoch', epoch, 'bytes', bytes)
    call('PEXPIRE', position, math.max(ARGV[#ARGV - 1], age, kept))
    if removed == '1' then
      call('HDEL', snapshot, key)
      call('ZREM', seen, key)
    else
      call('HSET', snapshot, key, payload)
      call('ZADD', seen, now, key)
    end
    call('PEXPIRE', snapshot, kept)
    call('PEXPIRE', seen, kept)
    if size ~= '0' then
      if call('LPUSH', history, payload) > tonumber(size) then call('LTRIM', history, 0, size - 1) end
      call('PEXPIRE', history, age)
    end
    if window ~= '0' then call('SET', once, number .. ':' .. epoch, 'PX', window) end
    receivers = call('PUBLISH', channel, payload)
  end
  published[3 * i + 1], published[3 * i + 2], published[3 * i + 3] = tonumber(number or 0), epoch or '', receivers
end
return published
