-- Removes fields of a hash that have the given values; those with other values were written again meanwhile.
-- KEYS[1] hash
-- ARGV field, value for each
-- Returns how many were removed.
local removed = 0
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    removed = removed + redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return removed
