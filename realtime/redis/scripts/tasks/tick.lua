-- Runs before enqueue.lua: lets it enqueue each tick of a periodic task once, and none before the last one.
-- KEYS[8] the last tick in ms and the schedule, or missing
-- The last four of ARGV, after the fields: the schedule, the tick in ms, the time in ms when the scheduler looked for it,
-- and the ms to keep KEYS[8]
-- Returns nil if the tick is not enqueued, otherwise as enqueue.lua.
local keep_ms, looked = tonumber(table.remove(ARGV)), tonumber(table.remove(ARGV))
local tick, schedule = tonumber(table.remove(ARGV)), table.remove(ARGV)
-- A recorded tick that is further in the future than this is ignored: the clock of Redis was wrong.
local WRONG_CLOCK_MS = 3600000

local function record(last)
  redis.call('SET', KEYS[8], ms(last) .. ' ' .. schedule, 'PX', ms(keep_ms))
end

-- If this call was made before and its reply was lost, enqueue.lua repeats the reply.
if not redis.call('HGET', tasks .. ARGV[5], 'enqueued') then
  local last, known = string.match(redis.call('GET', KEYS[8]) or '', '^(%d+) (.*)$')
  last = tonumber(last)
  if last and last > now + WRONG_CLOCK_MS then
    last = nil
  end
  if not last or known ~= schedule then
    -- A new or changed schedule begins now.
    record(math.max(last or 0, looked))
    return false
  elseif tick <= last then
    record(last)
    return false
  end
  -- A full queue: enqueue.lua would refuse the tick too. It is not recorded, so that the scheduler tries again.
  if redis.call('ZCARD', waiting) + redis.call('ZCARD', scheduled) >= tonumber(ARGV[9]) then
    return {}
  end
  record(tick)
end
