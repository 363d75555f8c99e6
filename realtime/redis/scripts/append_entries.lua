-- Appends entries to a stream, all or none. If the guard exists, they were appended before, and nothing is done. The
-- value of the guard is the id of the last entry.
-- KEYS[1] stream  KEYS[2] guard
-- ARGV[1] seconds for which the guard lives
-- ARGV[2…] for each entry: how many strings its fields and values are, then those strings
-- Returns 1 if they were appended, 0 if they had been before.
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
