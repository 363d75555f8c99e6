-- Moves an entry that a group gives up on to its dead letters, unless the group has finished it already.
-- KEYS[1] stream  KEYS[2] dead-letter stream
-- ARGV[1] group  ARGV[2] id  ARGV[3] reason  ARGV[4] attempts  ARGV[5] last error
-- ARGV[6] about how many dead letters are kept; beyond that the oldest go
-- The dead letter has four fields of its own, then those of the entry in their order.
-- Returns 1 if it was moved, else 0.
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1) == 0 then
  return 0
end
local letter = {'_id', ARGV[2], '_reason', ARGV[3], '_attempts', ARGV[4], '_error', ARGV[5]}
local entry = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
local fields = entry and entry[2] or {}
-- Lua passes at most 8000 values at once: what an absurd entry has beyond 2000 fields is left out.
for at = 1, math.min(#fields, 4000) do
  letter[#letter + 1] = fields[at]
end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[6], '*', unpack(letter))
return redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
