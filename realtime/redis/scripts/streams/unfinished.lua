-- Reads some fields of each entry that a group has not finished, wherever the entry is now. Dead letters are left out.
-- ARGV[4] the most entries  ARGV[5…] fields
-- Returns the fields' values for each entry, as far as it has them; nil if there are more entries.
local limit = tonumber(ARGV[4])
local found = {}
local function add(fields)
  local values = {}
  for number = 5, #ARGV do
    values[number - 4] = false
    for at = 1, #fields, 2 do
      if fields[at] == ARGV[number] then
        values[number - 4] = fields[at + 1]
      end
    end
  end
  found[#found + 1] = values
end
local last, pending
for _, pairs_of_group in ipairs(redis.call('EXISTS', stream) == 1 and redis.call('XINFO', 'GROUPS', stream) or {}) do
  local each = {}
  for at = 1, #pairs_of_group, 2 do
    each[pairs_of_group[at]] = pairs_of_group[at + 1]
  end
  if each['name'] == group then
    last, pending = each['last-delivered-id'], redis.call('XPENDING', stream, group, '-', '+', limit + 1)
  end
end
-- Not from "(" on: Redis refuses that for the largest possible id.
local unread = redis.call('XRANGE', stream, last or '-', '+', 'COUNT', limit + 2)
if #unread > 0 and unread[1][1] == last then
  table.remove(unread, 1)
end
if #unread + #(pending or {}) + redis.call('HLEN', parked) > limit then
  return false
end
for _, entry in ipairs(unread) do
  add(entry[2])
end
for _, each in ipairs(pending or {}) do
  local entry = redis.call('XRANGE', stream, each[1], each[1])[1]
  add(entry and entry[2] or {})
end
for _, id in ipairs(redis.call('HKEYS', parked)) do
  local record = read_parked(id)
  add(record and fields_of(record) or {})
end
return found
