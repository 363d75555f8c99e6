-- Writes down that an attempt begins with an entry that was handed out without one; the same again does nothing more.
-- ARGV[4] key  ARGV[5] id  ARGV[6] attempts as it was handed out
-- Returns 1, or 0 if the consumer has it not (any more).
local id, told = ARGV[5], tonumber(ARGV[6])
local attempts, where = held(id, ARGV[4])
local record = where == 'kept' and read_kept(id)
if not record then
  return 0
elseif record.due_at == BEGUN then
  return attempts == told + 1 and 1 or 0
elseif attempts ~= told then
  return 0
end
record.attempts, record.due_at = attempts + 1, BEGUN
write_kept(id, record)
return 1
