-- Records how attempts ended, and acks their entries. Calling it again changes nothing.
-- ARGV[5…] for each: id, claim, "SUCCESSFUL", "FAILED" or "RETRY", the value or the error as JSON, and the ms until the
-- next attempt
-- Returns for each: 2 if recorded and acked; 1 if recorded, but the entry was not pending and must be acked by the
-- stream's own script; 0 if the task is another worker's now, or was deleted.
local answers = {}

-- The id of the entry of an attempt.
local function entry_of(claim)
  return string.match(claim, ' (%d+%-%d+) ') or '0-0'
end

for at = 5, #ARGV, 5 do
  local id, claim, outcome, body, delay = unpack(ARGV, at, at + 4)
  local task = tasks .. id
  local found = redis.call('HMGET', task, 'claim', 'status', 'priority', 'unique')
  local is_ours = found[1] == claim
  if is_ours and found[2] == 'RUNNING' then
    if outcome == 'SUCCESSFUL' then
      finish(id, outcome, found[4], 'value', body)
    else
      add_error(id, body)
      if outcome == 'RETRY' then
        redis.call('HSET', task, 'status', 'READY')
        place(id, tonumber(found[3]), now_us, now + tonumber(delay))
      else
        finish(id, outcome, found[4])
      end
    end
  end
  answers[#answers + 1] = is_ours and 1 + redis.call('XACK', stream, group, entry_of(claim)) or 0
end
trim_lists()
return answers
