-- Moving an entry to the dead letters.

-- A letter has six fields of its own, followed by the entry's fields. The entry is removed from everywhere else.
local function dead_letter(id, key, reason, attempts, text, seen, fields, limit)
  local letter = {'_id', id, '_reason', reason, '_attempts', attempts, '_error', text, '_first_seen', ms(seen), '_key', key}
  -- Lua passes at most 8000 values at once, so fields beyond the first 2000 are dropped.
  for at = 1, math.min(#fields, 4000) do
    letter[#letter + 1] = fields[at]
  end
  redis.call('XADD', letters, 'MAXLEN', '~', limit, '*', unpack(letter))
  redis.call('XACK', stream, group, id)
  remove_parked(id, key)
end
