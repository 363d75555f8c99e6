-- Makes a worker's lease last longer.
-- ARGV[4] its session  ARGV[5] its lease, ms
-- Returns 1, or 0 if the session is not the worker's any more.
if redis.call('GET', leases .. consumer) ~= ARGV[4] then
  return 0
end
return redis.call('PEXPIRE', leases .. consumer, ARGV[5])
