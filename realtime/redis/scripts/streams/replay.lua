-- Moves dead letters back to the backlogs of their keys, as entries without attempts; each before newer entries.
-- KEYS[7] dead-letter stream
-- ARGV[4…] ids of dead letters
-- Returns the ids of those that were moved; the others do not exist, or their entries are in a backlog already.
local moved = {}
for at = 4, #ARGV do
  local letter = redis.call('XRANGE', letters, ARGV[at], ARGV[at])[1]
  local own, fields = {}, {}
  for field = 1, letter and #letter[2] or 0, 2 do
    local name, value = letter[2][field], letter[2][field + 1]
    if field < 13 and string.sub(name, 1, 1) == '_' and not own[name] then
      own[name] = value
    else
      fields[#fields + 1] = name
      fields[#fields + 1] = value
    end
  end
  local id = string.match(own['_id'] or '', '^%d+%-%d+$') or ARGV[at]
  if letter and redis.call('HEXISTS', parked, id) == 0 then
    local key, seen = own['_key'] or id, string.match(own['_first_seen'] or '', '^%d+$') or ms(now)
    park(id, key, fields, {attempts = 0, deaths = 0, seen = seen, due_at = 0})
    if owner_of(key) == '' then
      release_key(key)
    end
    redis.call('XDEL', letters, ARGV[at])
    moved[#moved + 1] = ARGV[at]
  end
end
return moved
