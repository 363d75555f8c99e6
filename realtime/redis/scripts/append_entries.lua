-- Appends entries to a stream, all or none. Does nothing if the guard exists, because they were appended before. The
-- value of the guard is the id of the last entry.
-- KEYS[1] stream  KEYS[2] guard
-- ARGV[1] seconds until the guard expires
-- ARGV[2…] for each entry: the number of strings, then its fields and values as that many strings
-- Returns 1 if they were appended, 0 if they had been appended before.
if redis.call('EXISTS', KEYS[2]) == 1 then
  return 0
end
local at, last = 2, ''
while at <= #ARGV do
  local count = tonumber(ARGV[at])
  last = redis.call('XADD', KEYS[1], '*', unpack(ARGV, at + 1, at + count))
  at = at + 1 + count
end
-- Last, so that an append that Redis refuses leaves no guard.
redis.call('SET', KEYS[2], last, 'EX', ARGV[1])
return 1
