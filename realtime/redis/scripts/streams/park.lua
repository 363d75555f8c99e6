-- Parks all entries of one key that a consumer holds: they wait in the key's backlog until they are due.
-- ARGV[4] key  ARGV[5…] for each entry, oldest first: id, attempts as it was handed out, attempts to record, ms to wait
-- Returns 1; 0 if the consumer does not hold them (any more); -1 if it also holds newer entries of the key.
local key = ARGV[4]
local name, last = owner_of(key)
if order ~= '' and name ~= consumer then
  return 0
elseif order ~= '' and last ~= ARGV[#ARGV - 3] then
  return -1
end
local moved = 0
for at = 5, #ARGV, 4 do
  local id, written, wait = ARGV[at], math.max(0, tonumber(ARGV[at + 2])), tonumber(ARGV[at + 3])
  local attempts, where, seen = held(id, key)
  if attempts == tonumber(ARGV[at + 1]) then
    local due_at = wait > 0 and ms(now + wait) or 0
    if where == 'parked' then
      local record = read_parked(id)
      record.attempts, record.due_at = written, due_at
      write_parked(id, record)
    else
      local entry = redis.call('XRANGE', stream, id, id)[1]
      if entry then
        park(id, key, entry[2], {attempts = written, deaths = 0, seen = ms(seen), due_at = due_at})
      end
      redis.call('XACK', stream, group, id)
    end
    moved = 1
  end
end
if moved == 1 then
  release_key_from(key, ARGV[5])
end
return moved
