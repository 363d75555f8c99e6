-- Gives entries that were handed out but not finished to a consumer, oldest first.
-- KEYS[1] stream
-- ARGV[1] group  ARGV[2] the consumer that gets them  ARGV[3] only those idle for this many ms
-- ARGV[4] first id to look at  ARGV[5] at most this many
-- ARGV[6] taking an entry begins its next attempt if fewer than this many have begun
-- ARGV[7] only what this consumer has, or "" for everybody's
-- Returns {id, attempts begun, whether by taking, fields}; fields is nil where the stream no longer has the entry.
local query = {'XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[3], ARGV[4], '+', ARGV[5]}
if ARGV[7] ~= '' then
  query[#query + 1] = ARGV[7]
end
local taken = {}
for _, pending in ipairs(redis.call(unpack(query))) do
  local id, attempts, begun = pending[1], pending[4], 0
  if attempts < tonumber(ARGV[6]) then
    attempts, begun = attempts + 1, 1
  end
  local claimed = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'RETRYCOUNT', attempts)
  local fields = claimed[1] and claimed[1][2]
  if not fields then
    redis.call('XACK', KEYS[1], ARGV[1], id)
  end
  taken[#taken + 1] = {id, attempts, begun, fields or false}
end
return taken
