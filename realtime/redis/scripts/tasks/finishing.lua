-- Functions for the end of a task, and of an attempt that failed.

local function add_error(id, error)
  redis.call('HSET', tasks .. id, 'error' .. redis.call('HINCRBY', tasks .. id, 'error_count', 1), error)
end

-- Finishes a task, and notifies those who wait for it. The error of a failed one is recorded before.
-- unique: its field of that name, or false. The further arguments are fields and values to record.
local function finish(id, status, unique, ...)
  local is_failed = status == 'FAILED'
  redis.call('HSET', tasks .. id, 'status', status, 'finished', ms(now), ...)
  redis.call('PEXPIRE', tasks .. id, is_failed and keep_failed_ms or keep_successful_ms)
  redis.call('ZADD', is_failed and failed or successful, ms(now), id)
  if unique and redis.call('GET', uniques .. unique) == id then
    redis.call('DEL', uniques .. unique)
  end
  redis.call('PUBLISH', channels .. id, status)
end

local function trim_lists()
  redis.call('ZREMRANGEBYSCORE', successful, '-inf', ms(now - keep_successful_ms))
  redis.call('ZREMRANGEBYSCORE', failed, '-inf', ms(now - keep_failed_ms))
  redis.call('ZREMRANGEBYRANK', successful, 0, -LISTED - 1)
  redis.call('ZREMRANGEBYRANK', failed, 0, -LISTED - 1)
end
