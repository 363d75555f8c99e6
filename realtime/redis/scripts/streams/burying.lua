-- How an entry becomes a dead letter.

-- The letter has six fields of its own, then those of the entry in their order. The entry is nowhere else then.
local function bury(id, key, reason, attempts, text, seen, fields, limit)
  local letter = {'_id', id, '_reason', reason, '_attempts', attempts, '_error', text, '_first_seen', ms(seen), '_key', key}
  -- Lua passes at most 8000 values at once: what an absurd entry has beyond 2000 fields is left out.
  for at = 1, math.min(#fields, 4000) do
    letter[#letter + 1] = fields[at]
  end
  redis.call('XADD', letters, 'MAXLEN', '~', limit, '*', unpack(letter))
  redis.call('XACK', stream, group, id)
  remove_kept(id, key)
end
