-- Moves all entries that a consumer holds to the backlogs of their keys, due at once, and deletes the consumer.
-- ARGV[4] the consumer  ARGV[5] ms of silence after which a consumer without a lease is dead, or 0 if it leaves by itself
-- ARGV[6] what to add to the deaths of its entries  ARGV[7] limit of pending entries  ARGV[8…] ids whose counted attempt
-- has not begun
-- Returns how many entries were moved; 1 if the consumer was deleted, 0 if it is alive or has more entries; and how many
-- entries had been deleted from the stream.
local name, silence, deaths, limit = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
if silence > 0 and is_alive(name, silence) then
  return {0, 0, 0}
end
local unbegun, moved, vanished = {}, 0, 0
for at = 8, #ARGV do
  unbegun[ARGV[at]] = 1
end
-- Before any write, because it fails if the group was deleted.
local pending = redis.call('XPENDING', stream, group, '-', '+', limit, name)
for key, last in pairs(keys_held_by(name)) do
  for _, place in ipairs(redis.call('ZRANGEBYLEX', backlogs .. key, '-', '[' .. place_of(last))) do
    local id = id_at(place)
    local record = read_parked(id)
    if record and is_in_flight(record) then
      record.attempts = math.max(0, record.attempts - (unbegun[id] or 0))
      record.deaths, record.due_at = record.deaths + deaths, 0
      write_parked(id, record)
      moved = moved + 1
    end
  end
end
for _, each in ipairs(pending) do
  local id, attempts, seen = each[1], math.max(0, each[4] - (unbegun[each[1]] or 0)), now - each[3]
  local entry = redis.call('XRANGE', stream, id, id)[1]
  if entry then
    local key = key_of(id, entry[2])
    if redis.call('HEXISTS', owners, key) == 0 then
      redis.call('HSET', owners, key, name .. ' ' .. id .. '+')
    end
    park(id, key, entry[2], {attempts = attempts, deaths = deaths, seen = ms(seen), due_at = 0})
    moved = moved + 1
  else
    vanished = vanished + 1
  end
  redis.call('XACK', stream, group, id)
end
if #pending == limit then
  return {moved, 0, vanished}
end
for key in pairs(keys_held_by(name)) do
  release_key(key)
end
redis.call('XGROUP', 'DELCONSUMER', stream, group, name)
redis.call('DEL', leases .. name)
return {moved, 1, vanished}
