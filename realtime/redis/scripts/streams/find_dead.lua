-- Finds the dead consumers of a group.
-- ARGV[4] ms of silence after which a consumer without a lease is dead
-- Returns their names.
local names, dead = {}, {}
for _, pairs_of_consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
  for at = 1, #pairs_of_consumer, 2 do
    if pairs_of_consumer[at] == 'name' then
      names[pairs_of_consumer[at + 1]] = true
    end
  end
end
-- A consumer that an operator has deleted may still hold keys.
for _, owner in ipairs(redis.call('HVALS', owners)) do
  local name = string.match(owner, '^(.*) %d+%-%d+%+?$')
  if name then
    names[name] = true
  end
end
for name in pairs(names) do
  if not is_alive(name, ARGV[4]) then
    dead[#dead + 1] = name
  end
end
return dead
