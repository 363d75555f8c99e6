-- Acks entries for the group, whichever consumer holds them. Releases each key whose last held entry is among them.
-- ARGV[4…] id and key of each entry; entries of one key in order
-- Returns how many backlogs got a due time.
local ids, keys, free, came_due = {}, {}, {}, 0
for at = 1, (#ARGV - 3) / 2 do
  ids[at], keys[at] = ARGV[2 * at + 2], ARGV[2 * at + 3]
end
local is_plain = redis.call('XACK', stream, group, unpack(ids)) == #ids
if is_plain and order == '' then
  return 0
end
for at = 1, is_plain and 0 or #ids do
  remove_parked(ids[at], keys[at])
end
local found = redis.call('HMGET', owners, unpack(keys))
for at, id in ipairs(ids) do
  local mine = consumer .. ' ' .. id
  if found[at] == mine then
    free[#free + 1] = keys[at]
  elseif found[at] == mine .. '+' or found[at] == '+' and not is_plain then
    came_due = came_due + release_key(keys[at])
  end
end
if #free > 0 then
  redis.call('HDEL', owners, unpack(free))
end
return came_due
