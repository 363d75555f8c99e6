-- As publish.lua, for topics with a snapshot: also keeps the newest publication of each key, and when it came.
-- KEYS of each: position, a hash {offset, epoch, bytes of the snapshot}; history, a list, newest first; snapshot, a hash
--   key → publication; seen, a sorted set of its keys by time in ms; idempotency key (or any)
-- ARGV of each: Redis channel; line before the frame; frame before its offset, frame after it; key; 1 if it is removed;
--   ms for which the key must be silent (0: none); history size, history age in ms, idempotency window in ms, as there;
--   most keys, most bytes, age in ms of the snapshot. After all of them: position age in ms, an epoch for new counters
-- Returns offset, epoch, receivers of each; receivers is -1 if it was published before with the same idempotency key, -2
--   if the snapshot is full, -3 if the key was not silent. Nothing was published then.
local call, published, time, i = redis.call, {}, redis.call('TIME'), 0
local now = time[1] * 1000 + math.floor(time[2] / 1000)
while KEYS[5 * i + 1] do
  -- Publications of one topic that follow each other have most commands in common.
  local position, history, snapshot, seen = unpack(KEYS, 5 * i + 1, 5 * i + 4)
  local offset, epoch, bytes = unpack(call('HMGET', position, 'offset', 'epoch', 'bytes'))
  if not epoch then offset, epoch = 0, ARGV[#ARGV], call('DEL', history, snapshot, seen) end
  local count, sizes, accepted, first = call('HLEN', snapshot), {}, {}, i
  bytes = count > 0 and tonumber(bytes) or 0
  while KEYS[5 * i + 1] == position do
    local line, before, after, key, removed, silent, _, _, window, most_keys, most_bytes = unpack(ARGV, 13 * i + 2, 13 * i + 12)
    local number = string.format('%.0f', offset + #accepted + 1)
    local payload = '\193' .. epoch .. ':' .. number .. '\n' .. line .. before .. number .. after
    local had, size = sizes[key] or call('HSTRLEN', snapshot, key), removed == '1' and 0 or #payload
    local repeated, its_epoch = string.match(window ~= '0' and call('GET', KEYS[5 * i + 5]) or '', '^(%d+):(.*)$')
    published[3 * i + 1], published[3 * i + 2] = tonumber(repeated or 0), its_epoch or ''
    if repeated then
      published[3 * i + 3] = -1
    elseif silent ~= '0' and tonumber(call('ZSCORE', seen, key) or now) > now - silent then
      published[3 * i + 3] = -3
    elseif size > had and (had == 0 and count >= tonumber(most_keys) or bytes + size - had > tonumber(most_bytes)) then
      published[3 * i + 3] = -2
    else
      accepted[#accepted + 1], sizes[key], bytes = {i, payload, number}, size, bytes + size - had
      count = count + (size > 0 and 1 or 0) - (had > 0 and 1 or 0)
    end
    i = i + 1
  end
  -- Before the first is published: an offset is never given twice, whatever fails in between.
  call('HSET', position, 'offset', string.format('%.0f', offset + #accepted), 'epoch', epoch, 'bytes', bytes)
  local size, age, window, _, _, kept = unpack(ARGV, 13 * first + 8, 13 * first + 13)
  call('PEXPIRE', position, math.max(ARGV[#ARGV - 1], age, kept))
  local parts = {}
  for n, each in ipairs(accepted) do
    local at, payload, number, key = each[1], each[2], each[3], ARGV[13 * each[1] + 5]
    local is_removed = ARGV[13 * at + 6] == '1'
    call(unpack(is_removed and {'HDEL', snapshot, key} or {'HSET', snapshot, key, payload}))
    call(unpack(is_removed and {'ZREM', seen, key} or {'ZADD', seen, now, key}))
    if size ~= '0' and call('LPUSH', history, payload) > tonumber(size) then call('LTRIM', history, 0, size - 1) end
    if window ~= '0' then call('SET', KEYS[5 * at + 5], number .. ':' .. epoch, 'PX', window) end
    published[3 * at + 1], published[3 * at + 2], parts[n] = tonumber(number), epoch, #payload .. '\n' .. payload
  end
  local message = #parts == 1 and accepted[1][2] or '\193\193' .. table.concat(parts)
  local receivers = #parts > 0 and call('PUBLISH', ARGV[13 * first + 1], message)
  for _, each in ipairs(accepted) do published[3 * each[1] + 3] = receivers end
  for key, ms in pairs({[snapshot] = kept, [seen] = kept, [history] = age}) do call('PEXPIRE', key, ms) end
end
return published
