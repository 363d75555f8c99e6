-- Removes the entries that all groups of a stream have finished.
-- KEYS[1] stream
-- ARGV the groups that must exist. Nothing is removed while one of them is missing, because it has finished nothing.
-- Returns how many were removed, or -1 if a group is missing.
-- Compared as text: Lua's numbers are exact up to 2^53, and a program may choose ids that are larger.
local function is_less(a, b)
  return #a < #b or #a == #b and a < b
end
local function is_older(a, b)
  local a_ms, a_number = string.match(a, '(%d+)-(%d+)')
  local b_ms, b_number = string.match(b, '(%d+)-(%d+)')
  return is_less(a_ms, b_ms) or a_ms == b_ms and is_less(a_number, b_number)
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  return #ARGV > 0 and -1 or 0
end
local oldest_kept
local missing = {}
for _, name in ipairs(ARGV) do
  missing[name] = true
end
for _, pairs_of_group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for at = 1, #pairs_of_group, 2 do
    group[pairs_of_group[at]] = pairs_of_group[at + 1]
  end
  missing[group['name']] = nil
  local first = redis.call('XPENDING', KEYS[1], group['name'])[2] or group['last-delivered-id']
  if not oldest_kept or is_older(first, oldest_kept) then
    oldest_kept = first
  end
end
if next(missing) then
  return -1
end
return oldest_kept and redis.call('XTRIM', KEYS[1], 'MINID', oldest_kept) or 0
