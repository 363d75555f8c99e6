-- Records that an attempt with a suspect begins. Calling it again changes nothing.
-- ARGV[4] key  ARGV[5] id  ARGV[6] attempts as it was handed out
-- Returns 1, or 0 if the consumer does not hold the entry (any more).
local id, told = ARGV[5], tonumber(ARGV[6])
local attempts, where = held(id, ARGV[4])
local record = where == 'parked' and read_parked(id)
if not record then
  return 0
elseif record.due_at == BEGUN then
  return attempts == told + 1 and 1 or 0
elseif attempts ~= told then
  return 0
end
record.attempts, record.due_at = attempts + 1, BEGUN
write_parked(id, record)
return 1
