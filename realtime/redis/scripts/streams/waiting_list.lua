-- The order of a waiting list: see WaitingList in realtime/streams/keys.py.

-- The place of an item that has waited since `since`, in µs: each point of priority moves it forward by a minute.
local function place_in_list(priority, since)
  return since - priority * 60000000
end
