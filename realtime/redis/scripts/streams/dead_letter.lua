-- Moves an entry to the dead letters. If it was the last entry that the consumer held of its key, releases the key.
-- KEYS[7] dead-letter stream
-- ARGV[4] key  ARGV[5] id  ARGV[6] attempts as it was handed out  ARGV[7] reason  ARGV[8] last error
-- ARGV[9] approximate limit of the dead-letter stream; the oldest letters are removed beyond it
-- Returns nil if the consumer does not hold the entry (any more), else 1 if the key's backlog got a due time, else 0.
local key, id = ARGV[4], ARGV[5]
local attempts, where, seen = held(id, key)
if attempts ~= tonumber(ARGV[6]) then
  return false
end
local entry = where == 'pending' and redis.call('XRANGE', stream, id, id)[1]
local fields = entry and entry[2] or where == 'parked' and fields_of(read_parked(id)) or {}
local name, last = owner_of(key)
dead_letter(id, key, ARGV[7], ARGV[6], ARGV[8], seen, fields, ARGV[9])
return name == consumer and last == id and release_key_from(key, id) or 0
