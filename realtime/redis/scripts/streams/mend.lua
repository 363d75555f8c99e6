-- Checks one page of a group's bookkeeping and repairs it, so that each line is due or a worker holds its key, whatever
-- was deleted. docs/topics/streams.md has the invariants. A worker finds by itself the entries that Redis assigns to it
-- and that it does not know (holdings.lua).
-- ARGV[4] what to check: "kept", "owners" or "due"  ARGV[5] cursor, "0" at first  ARGV[6] approximate page size
-- ARGV[7] the longest wait that an entry can have, ms
-- Returns the next cursor, "0" at the end, and how many were repaired.
local longest, mended = tonumber(ARGV[7]), 0

local function is_held(owner)
  return string.find(owner, ' %d+%-%d+%+?$') ~= nil
end

-- Marks in the owner of a key that there is a line. Returns whether the mark is new.
local function mark_line(key, owner)
  return string.sub(owner, -1) ~= '+' and redis.call('HSET', owners, key, owner .. '+') == 0
end

-- Each of these returns a true value if it has repaired something. In Lua the number 0 is true.
local check = {}

-- A kept entry is in the line of its key and waits no longer than the limit, and its line is due or held.
function check.kept(id)
  local record = read_kept(id)
  local fields = record and fields_of(record)
  -- An unreadable entry gets a line of its own. The next worker moves it to the dead letters from there.
  local key, place = fields and key_of(id, fields) or id, place_of(id)
  local is_wrong = redis.call('ZADD', lines .. key, 'NX', 0, place) == 1
  -- Such times mean that Redis's clock has gone back: they are of no use.
  if record and (tonumber(record.seen) > now or tonumber(record.due_at) > now + longest) then
    record.seen, record.due_at = ms(math.min(now, tonumber(record.seen))), is_in_hand(record) and record.due_at or 0
    write_kept(id, record)
    is_wrong = true
  end
  local owner = redis.call('HGET', owners, key) or ''
  if is_held(owner) then return mark_line(key, owner) or is_wrong end
  local due_at, earliest = tonumber(redis.call('ZSCORE', due, key) or nil), record and tonumber(record.due_at) or 0
  local is_late = due_at and due_at > math.max(now, earliest) and redis.call('ZRANGE', lines .. key, 0, 0)[1] == place
  return (is_wrong or owner ~= '+' or not due_at or is_late) and settle(key)
end

-- A key that no worker holds has a line that is due.
function check.owners(key, owner)
  return not is_held(owner) and not redis.call('ZSCORE', due, key) and settle(key)
end

-- The key of a line that is due has no holder.
function check.due(key)
  local owner = redis.call('HGET', owners, key) or ''
  if not is_held(owner) then return owner ~= '+' and settle(key) end
  mark_line(key, owner)
  return redis.call('ZREM', due, key)
end

local name = ({kept = kept, owners = owners, due = due})[ARGV[4]]
local found = redis.call(name == due and 'ZSCAN' or 'HSCAN', name, ARGV[5], 'COUNT', ARGV[6])
for at = 1, #found[2], 2 do
  local is_known = name ~= kept or string.find(found[2][at], '^%d+%-%d+$')
  mended = mended + (is_known and check[ARGV[4]](found[2][at], found[2][at + 1]) and 1 or 0)
end
return {found[1], mended}
