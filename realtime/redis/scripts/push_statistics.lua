-- Adds what a process has counted to minutes and hours, once, and notes that the process is alive.
-- KEYS: process, a hash {number of its last push, what it says about itself}; processes, a sorted set of ids by the time
--   in ms when they were seen; then one hash for each minute and hour
-- ARGV: process id; number of this push; what it says about itself; ms to keep that; ms to keep process ids; the first
--   characters of the epochs of new hashes. For each minute and hour: ms to keep it, how many fields, then field and
--   increment of each
-- Returns 1 if it was added, 0 if that had been done before.
local call, time = redis.call, redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- A key of another type would stop the script in the middle, and what it had not added yet would be lost.
for i = 1, #KEYS do
  local size = redis.pcall(i == 2 and 'ZCARD' or 'HLEN', KEYS[i])
  if type(size) == 'table' and string.find(size.err, 'WRONGTYPE', 1, true) then call('DEL', KEYS[i]) end
end
local is_new = tonumber(ARGV[2]) > tonumber(call('HGET', KEYS[1], 'number') or 0)
call('HSET', KEYS[1], 'number', ARGV[2], 'about', ARGV[3])
call('PEXPIRE', KEYS[1], ARGV[4])
call('ZREMRANGEBYSCORE', KEYS[2], 0, now - ARGV[5])
call('ZADD', KEYS[2], now, ARGV[1])
call('PEXPIRE', KEYS[2], ARGV[5])
if not is_new then return 0 end
local at = 7
for i = 3, #KEYS do
  local count = tonumber(ARGV[at + 1])
  -- Each hash has its own epoch: with USE_TZ off, two hours have one name when clocks go back, and only this differs.
  call('HSETNX', KEYS[i], 'epoch', ARGV[6] .. i)
  for n = 1, count do call('HINCRBY', KEYS[i], ARGV[at + 2 * n], ARGV[at + 2 * n + 1]) end
  call('PEXPIRE', KEYS[i], ARGV[at])
  at = at + 2 + 2 * count
end
return 1
