-- Makes a lease last longer, if it is still the holder's.
-- KEYS[1] lease
-- ARGV[1] holder  ARGV[2] ms that it lasts from now
-- Returns 1 if it was renewed, else 0.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
