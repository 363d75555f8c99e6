-- The keys of a snapshot that have been silent for too long, for the one process that has the lease.
-- KEYS[1] lease  KEYS[2] seen, a sorted set of keys by the time of their last publication in ms
-- ARGV[1] the id of the process  ARGV[2] ms until its lease expires  ARGV[3] ms after which a key is silent
-- ARGV[4] how many keys at most
-- Returns keys, those that are silent for longest first; none if another process has the lease.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return {}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local time = redis.call('TIME')
local last = time[1] * 1000 + math.floor(time[2] / 1000) - ARGV[3]
return redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', last), 'LIMIT', 0, ARGV[4])
