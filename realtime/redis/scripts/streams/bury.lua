-- Moves an entry that its consumer gives up on to the dead letters, and lets its key go if it was the last one held.
-- KEYS[7] dead-letter stream
-- ARGV[4] key  ARGV[5] id  ARGV[6] attempts as it was handed out  ARGV[7] reason  ARGV[8] last error
-- ARGV[9] about how many dead letters are kept; beyond that the oldest go
-- Returns nil if the consumer has it not (any more), else how many lines are due by it, now or later.
local key, id = ARGV[4], ARGV[5]
local attempts, where, seen = held(id, key)
if attempts ~= tonumber(ARGV[6]) then
  return false
end
local entry = where == 'pending' and redis.call('XRANGE', stream, id, id)[1]
local fields = entry and entry[2] or where == 'kept' and fields_of(read_kept(id)) or {}
local name, last = owner_of(key)
bury(id, key, ARGV[7], ARGV[6], ARGV[8], seen, fields, ARGV[9])
return name == consumer and last == id and let_go(key, id) or 0
