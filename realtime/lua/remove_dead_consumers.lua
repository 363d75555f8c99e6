-- Removes the consumers of a group that hold nothing and have not been heard of for long.
-- KEYS[1] stream
-- ARGV[1] group  ARGV[2] ms of silence
-- Returns how many were removed.
local removed = 0
for _, pairs_of_consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for at = 1, #pairs_of_consumer, 2 do
    consumer[pairs_of_consumer[at]] = pairs_of_consumer[at + 1]
  end
  if consumer['pending'] == 0 and consumer['idle'] >= tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer['name'])
    removed = removed + 1
  end
end
return removed
