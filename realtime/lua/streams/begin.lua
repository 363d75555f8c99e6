-- Writes down that an attempt begins with an entry that was handed out without one.
-- ARGV[4] key  ARGV[5] id  ARGV[6] attempts as it was handed out
-- Returns 1, or 0 if the consumer has it not (any more).
local attempts, where = held(ARGV[5], ARGV[4])
if where ~= 'kept' or attempts ~= tonumber(ARGV[6]) then
  return 0
end
local record = read_kept(ARGV[5])
record.attempts = attempts + 1
write_kept(ARGV[5], record)
return 1
