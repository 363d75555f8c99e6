-- Lets a consumer go: others may claim at once what it still holds; it is removed if it holds nothing.
-- KEYS[1] stream
-- ARGV[1] group  ARGV[2] consumer  ARGV[3] ms after which entries may be claimed  ARGV[4] at most this many
-- Returns how many entries it leaves to others.
local held = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', ARGV[4], ARGV[2])
for _, pending in ipairs(held) do
  redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, pending[1], 'IDLE', ARGV[3], 'JUSTID')
end
if #held == 0 then
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
end
return #held
