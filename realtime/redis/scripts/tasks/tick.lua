-- Before enqueue.lua: lets it enqueue a tick of a periodic task once, and no tick before the last one.
-- KEYS[8] the last tick in ms and the schedule, or missing
-- ARGV at its end, after the fields: the schedule, the tick in ms, the ms when its sender looked at the clock, and the
-- ms to keep KEYS[8]
-- Returns nil if the tick is not enqueued, otherwise as enqueue.lua.
local keep_ms, looked = tonumber(table.remove(ARGV)), tonumber(table.remove(ARGV))
local tick, schedule = tonumber(table.remove(ARGV)), table.remove(ARGV)
-- A tick further in the future was recorded while the clock of Redis was wrong.
local WRONG_CLOCK_MS = 3600000

local function record(last)
  redis.call('SET', KEYS[8], ms(last) .. ' ' .. schedule, 'PX', ms(keep_ms))
end

-- If the reply of an earlier call was lost, enqueue.lua gives it again.
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
  -- enqueue.lua refuses it too. It comes again.
  if redis.call('ZCARD', waiting) + redis.call('ZCARD', scheduled) >= tonumber(ARGV[9]) then
    return {}
  end
  record(tick)
end
