-- Lists one page of the entries that Redis assigns to this consumer: its pending entries, or the last entry of each of
-- its keys.
-- ARGV[4] what to list: "pending" or "owners"  ARGV[5] cursor, "0" at first  ARGV[6] approximate page size
-- Returns the next cursor, "0" at the end, and the ids.
local ids, count = {}, tonumber(ARGV[6])
if ARGV[4] == 'pending' then
  for at, pending in ipairs(redis.call('XPENDING', stream, group, ARGV[5], '+', count, consumer)) do
    ids[at] = pending[1]
  end
  return {#ids == count and '(' .. ids[count] or '0', ids}
end
local found = redis.call('HSCAN', owners, ARGV[5], 'COUNT', count)
for at = 2, #found[2], 2 do
  local name, last = string.match(found[2][at], '^(.*) (%d+%-%d+)%+?$')
  if name == consumer then
    ids[#ids + 1] = last
  end
end
return {found[1], ids}
