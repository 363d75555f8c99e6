-- Creates the groups of a stream that do not exist, from its first entry on, and the stream with them. Notes when, in the
-- same step: if the answer is lost and the call repeated, the groups exist.
-- KEYS[1] stream  KEYS[2…] for each group, when it was last created
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
