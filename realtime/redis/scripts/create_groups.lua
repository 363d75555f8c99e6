-- Creates the missing groups of a stream, and the stream if it is missing; a new group begins at the first entry.
-- Records the time of creation in the same step, because a repeated call would find the groups existing.
-- KEYS[1] stream  KEYS[2…] for each group, the key of its time of creation
-- ARGV the groups
-- Returns how many were created.
local time, count = redis.call('TIME'), 0
for at, group in ipairs(ARGV) do
  local answer = redis.pcall('XGROUP', 'CREATE', KEYS[1], group, '0', 'MKSTREAM')
  if not answer.err then
    redis.call('SET', KEYS[at + 1], time[1] .. string.format('%03d', math.floor(time[2] / 1000)))
    count = count + 1
  elseif not string.find(answer.err, '^%-?BUSYGROUP') then
    return answer
  end
end
return count
