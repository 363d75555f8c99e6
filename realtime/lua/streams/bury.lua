-- Moves an entry that its consumer gives up on to the dead letters, and lets its key go if it was the last one held.
-- KEYS[7] dead-letter stream
-- ARGV[4] key  ARGV[5] id  ARGV[6] attempts as it was handed out  ARGV[7] reason  ARGV[8] last error
-- ARGV[9] about how many dead letters are kept; beyond that the oldest go
-- The dead letter has six fields of its own, then those of the entry in their order.
-- Returns nil if the consumer has it not (any more), else how many lines are due by it.
local key, id = ARGV[4], ARGV[5]
local attempts, where, seen = held(id, key)
if attempts ~= tonumber(ARGV[6]) then
  return false
end
local letter = {'_id', id, '_reason', ARGV[7], '_attempts', ARGV[6], '_error', ARGV[8], '_first_seen', ms(seen), '_key', key}
local entry = where == 'pending' and redis.call('XRANGE', stream, id, id)[1]
local fields = entry and entry[2] or where == 'kept' and cmsgpack.unpack(read_kept(id).fields) or {}
-- Lua passes at most 8000 values at once: what an absurd entry has beyond 2000 fields is left out.
for at = 1, math.min(#fields, 4000) do
  letter[#letter + 1] = fields[at]
end
redis.call('XADD', letters, 'MAXLEN', '~', ARGV[9], '*', unpack(letter))
local name, last = owner_of(key)
redis.call('XACK', stream, group, id)
remove_kept(id, key)
return name == consumer and last == id and settle(key) or 0
