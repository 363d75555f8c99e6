-- Appends entries to a stream, all or none. Does nothing if the guard exists, because they were appended before. The
-- value of the guard is the id of the last entry.
-- KEYS[1] stream  KEYS[2] guard
-- ARGV[1] seconds until the guard expires
-- ARGV[2] the most entries of the stream, 0 for no limit
-- ARGV[3…] for each entry: the number of strings, then its fields and values as that many strings
-- Returns 1 if they were appended, 0 if they had been appended before, -1 if the stream is full.
if redis.call('EXISTS', KEYS[2]) == 1 then
  return 0
end
local limit = tonumber(ARGV[2])
if limit > 0 and redis.call('XLEN', KEYS[1]) >= limit then
  return -1
end
local at, last = 3, ''
while at <= #ARGV do
  local count = tonumber(ARGV[at])
  last = redis.call('XADD', KEYS[1], '*', unpack(ARGV, at + 1, at + count))
  at = at + 1 + count
end
-- Last, so that an append that Redis refuses leaves no guard.
redis.call('SET', KEYS[2], last, 'EX', ARGV[1])
return 1
