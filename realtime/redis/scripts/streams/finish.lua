-- The group has finished entries, whoever has them; the keys of which they were the last are let go.
-- ARGV[4…] id and key of each, those of one key in their order
-- Returns how many lines are due by it, now or later.
local ids, keys, free, came_due = {}, {}, {}, 0
for at = 1, (#ARGV - 3) / 2 do
  ids[at], keys[at] = ARGV[2 * at + 2], ARGV[2 * at + 3]
end
local is_plain = redis.call('XACK', stream, group, unpack(ids)) == #ids
if is_plain and order == '' then
  return 0
end
for at = 1, is_plain and 0 or #ids do
  remove_kept(ids[at], keys[at])
end
local found = redis.call('HMGET', owners, unpack(keys))
for at, id in ipairs(ids) do
  local own = consumer .. ' ' .. id
  if found[at] == own then
    free[#free + 1] = keys[at]
  elseif found[at] == own .. '+' or found[at] == '+' and not is_plain then
    came_due = came_due + settle(keys[at])
  end
end
if #free > 0 then
  redis.call('HDEL', owners, unpack(free))
end
return came_due
