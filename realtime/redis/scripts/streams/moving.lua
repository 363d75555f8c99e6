-- Counts the entries in the lines of one page of keys: of the keys that are due, or of those that a worker holds.
-- ARGV[4] what to count: "owners" or "due"  ARGV[5] cursor, "0" at first  ARGV[6] approximate page size
-- Returns the next cursor, "0" at the end, and how many there are.
local is_due = ARGV[4] == 'due'
local found, count = redis.call(is_due and 'ZSCAN' or 'HSCAN', is_due and due or owners, ARGV[5], 'COUNT', ARGV[6]), 0
for at = 1, #found[2], 2 do
  local key, is_moving = found[2][at], is_due
  if not is_due and not redis.call('ZSCORE', due, key) then
    local name, last = string.match(found[2][at + 1], '^(.*) (%d+%-%d+)%+?$')
    -- `held` looks among the entries of the script's `consumer`.
    consumer = name or ''
    is_moving = name and held(last, key) ~= nil
  end
  if is_moving then
    count = count + redis.call('ZCARD', lines .. key)
  end
end
return {found[1], count}
