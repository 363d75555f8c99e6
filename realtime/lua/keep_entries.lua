-- Renews the lease of entries that a consumer holds, and never takes one back that another has claimed meanwhile.
-- KEYS[1] stream
-- ARGV[1] group  ARGV[2] consumer  ARGV[3] attempts begun, or "" to leave them  ARGV[4…] ids
-- Returns the ids that the consumer does not hold.
local lost = {}
for at = 4, #ARGV do
  local id = ARGV[at]
  if #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2]) == 0 then
    lost[#lost + 1] = id
  elseif ARGV[3] == '' then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'JUSTID')
  else
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'RETRYCOUNT', ARGV[3], 'JUSTID')
  end
end
return lost
