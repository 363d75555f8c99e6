-- Extends a lease, if the holder still has it.
-- KEYS[1] lease
-- ARGV[1] holder  ARGV[2] ms from now until it expires
-- Returns 1 if it was renewed, else 0.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
