-- Releases a lease, if the holder still has it.
-- KEYS[1] lease
-- ARGV[1] holder
-- Returns 1 if it was released, else 0.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
