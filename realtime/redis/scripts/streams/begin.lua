-- Records that an attempt with each of these suspects begins. Calling it again changes nothing.
-- ARGV[4…] key, id and attempts as it was handed out, of each suspect
-- Returns the ids, without those that the consumer does not hold (any more).
local function begin(key, id, told)
  local attempts, where = held(id, key)
  local record = where == 'parked' and read_parked(id)
  if not record then
    return false
  elseif record.due_at == BEGUN then
    return attempts == told + 1
  elseif attempts ~= told then
    return false
  end
  record.attempts, record.due_at = attempts + 1, BEGUN
  write_parked(id, record)
  return true
end

local begun = {}
for at = 4, #ARGV, 3 do
  if begin(ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])) then
    begun[#begun + 1] = ARGV[at + 1]
  end
end
return begun
