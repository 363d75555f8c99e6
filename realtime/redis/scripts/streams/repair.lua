-- Checks one page of a group's bookkeeping and repairs it after keys were deleted, so that each backlog is due or a worker
-- holds its key. docs/topics/streams.md has the invariants. Each worker finds by itself the entries that Redis assigns to
-- it and that it does not know (holdings.lua).
-- ARGV[4] what to check: "parked", "owners" or "due"  ARGV[5] cursor, "0" at first  ARGV[6] approximate page size
-- ARGV[7] the longest wait between two attempts, ms
-- Returns the next cursor, "0" at the end, and how many were repaired.
local longest, repaired = tonumber(ARGV[7]), 0

local function is_held(owner)
  return string.find(owner, ' %d+%-%d+%+?$') ~= nil
end

-- Marks in the owner of a key that the key has a backlog. Returns true if the mark is new.
local function mark_backlog(key, owner)
  return string.sub(owner, -1) ~= '+' and redis.call('HSET', owners, key, owner .. '+') == 0
end

-- Each check returns a true value if it has repaired something. In Lua the number 0 is true.
local check = {}

-- A parked entry is in the backlog of its key, waits no longer than the limit, and its backlog is due or its key held.
function check.parked(id)
  local record = read_parked(id)
  local fields = record and fields_of(record)
  -- An unreadable entry gets a backlog of its own. The next worker moves it to the dead letters from there.
  local key, place = fields and key_of(id, fields) or id, place_of(id)
  local is_wrong = redis.call('ZADD', backlogs .. key, 'NX', 0, place) == 1
  -- Such times are left over from before Redis's clock jumped back.
  if record and (tonumber(record.seen) > now or tonumber(record.due_at) > now + longest) then
    record.seen, record.due_at = ms(math.min(now, tonumber(record.seen))), is_in_flight(record) and record.due_at or 0
    write_parked(id, record)
    is_wrong = true
  end
  local owner = redis.call('HGET', owners, key) or ''
  if is_held(owner) then return mark_backlog(key, owner) or is_wrong end
  local due_at, earliest = tonumber(redis.call('ZSCORE', due, key) or nil), record and tonumber(record.due_at) or 0
  local is_late = due_at and due_at > math.max(now, earliest) and redis.call('ZRANGE', backlogs .. key, 0, 0)[1] == place
  return (is_wrong or owner ~= '+' or not due_at or is_late) and release_key(key)
end

-- A key that no worker holds has a backlog that is due.
function check.owners(key, owner)
  return not is_held(owner) and not redis.call('ZSCORE', due, key) and release_key(key)
end

-- If a backlog is due, no worker holds its key.
function check.due(key)
  local owner = redis.call('HGET', owners, key) or ''
  if not is_held(owner) then return owner ~= '+' and release_key(key) end
  mark_backlog(key, owner)
  return redis.call('ZREM', due, key)
end

local name = ({parked = parked, owners = owners, due = due})[ARGV[4]]
local found = redis.call(name == due and 'ZSCAN' or 'HSCAN', name, ARGV[5], 'COUNT', ARGV[6])
for at = 1, #found[2], 2 do
  local is_known = name ~= parked or string.find(found[2][at], '^%d+%-%d+$')
  repaired = repaired + (is_known and check[ARGV[4]](found[2][at], found[2][at + 1]) and 1 or 0)
end
return {found[1], repaired}
