-- Tells which consumers of a group are dead.
-- ARGV[4] ms of silence after which one without a lease is
-- Returns their names.
local names, dead = {}, {}
for _, pairs_of_consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
  for at = 1, #pairs_of_consumer, 2 do
    if pairs_of_consumer[at] == 'name' then
      names[pairs_of_consumer[at + 1]] = true
    end
  end
end
-- One that an operator has deleted may still hold keys.
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
