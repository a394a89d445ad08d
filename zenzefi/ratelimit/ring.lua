-- An exact sliding window: a ring of the last admissions' times, packed into one string.
--
-- Layout: number of slots (4 bytes), index of the oldest one (4), time of the last write (8), then the slots of 8 bytes
-- each, all big-endian; a slot holds microseconds since 1970 as a double, 0 where nothing was admitted yet. The i-th
-- oldest admission stands in slot (oldest + i) % size, so the times rise with i and a binary search counts those that
-- have left the window. The size is the largest limit that the ring has known: a limit that is lowered and raised again
-- must not make it forget.

local HEADER, SLOT = 16, 8

local function ring_grow(ring, limit, last)
  local slots = redis.call('GETRANGE', ring.key, HEADER, -1)
  slots = slots .. string.rep('\0', ring.size * SLOT - #slots)
  redis.call('SET', ring.key, struct.pack('>I4I4d', limit, 0, last) .. string.rep('\0', (limit - ring.size) * SLOT)
    .. string.sub(slots, ring.oldest * SLOT + 1) .. string.sub(slots, 1, ring.oldest * SLOT), 'KEEPTTL')
  ring.size, ring.oldest = limit, 0
end

local function ring_open(key, limit, now)
  local ring = {key = key, size = limit, oldest = 0, now = now, known = false}
  local header = redis.call('GETRANGE', key, 0, HEADER - 1)
  if #header < HEADER then return ring end
  local last
  ring.known = true
  ring.size, ring.oldest, last = struct.unpack('>I4I4d', header)
  -- A clock that steps back must not shorten the window: time stands still until it has caught up.
  if ring.now < last then ring.now = last end
  if ring.size < limit then ring_grow(ring, limit, last) end
  return ring
end

local function ring_time(ring, i)
  local at = HEADER + ((ring.oldest + i) % ring.size) * SLOT
  local slot = redis.call('GETRANGE', ring.key, at, at + SLOT - 1)
  if #slot < SLOT then return 0 end
  return (struct.unpack('>d', slot))
end

-- How many admissions the window holds.
local function ring_used(ring, window)
  local edge = ring.now - window
  if not ring.known or ring_time(ring, ring.size - 1) <= edge then return 0 end
  if ring_time(ring, 0) > edge then return ring.size end
  local low, high = 1, ring.size - 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    if ring_time(ring, middle) <= edge then low = middle + 1 else high = middle end
  end
  return ring.size - low
end

local function ring_write(ring, count, window)
  if count == 0 then return end
  local slot = struct.pack('>d', ring.now)
  local first = math.min(count, ring.size - ring.oldest)
  redis.call('SETRANGE', ring.key, HEADER + ring.oldest * SLOT, string.rep(slot, first))
  if count > first then redis.call('SETRANGE', ring.key, HEADER, string.rep(slot, count - first)) end
  ring.oldest = (ring.oldest + count) % ring.size
  ring.known = true
  redis.call('SETRANGE', ring.key, 0, struct.pack('>I4I4d', ring.size, ring.oldest, ring.now))
  redis.call('PEXPIRE', ring.key, math.ceil(window / 1000) + 1000)
end

-- Admit at least `least` and at most `want`, or none. `debt` was admitted without asking, while Redis was away, and is
-- charged first; `history` is what the caller admitted in this window with leave, charged when the ring has been lost.
-- Returns {admitted, free, microseconds until a retry succeeds, microseconds until one leaves the window, the time}.
local function ring_charge(key, limit, window, want, least, debt, history, now)
  local ring = ring_open(key, limit, now)
  if not ring.known then debt = debt + history end
  local used = ring_used(ring, window)
  debt = math.max(0, math.min(debt, limit - used))
  ring_write(ring, debt, window)
  used = used + debt
  local free = math.max(0, limit - used)
  if free < least then
    -- The retry succeeds when the newest of those that are in its way has left.
    local retry = ring_time(ring, ring.size - limit + least - 1) + window - ring.now
    return {0, free, math.max(1, retry), 0, string.format('%.0f', ring.now)}
  end
  -- The last permits are handed out in small portions: a process that hoards them would keep them from the others.
  local admitted = math.min(want, math.max(least, math.floor(free / 4)))
  ring_write(ring, admitted, window)
  used = used + admitted
  local leaves = 0
  if used > 0 then leaves = ring_time(ring, ring.size - used) + window - ring.now end
  return {admitted, limit - used, 0, leaves, string.format('%.0f', ring.now)}
end

-- Take back the admission of a given time, as if it had not been made; 1 if it was found.
local function ring_forgive(key, limit, stamp, now)
  local ring = ring_open(key, limit, now)
  if not ring.known then return 0 end
  for i = ring.size - 1, 0, -1 do
    if string.format('%.0f', ring_time(ring, i)) == stamp then
      for j = i, 0, -1 do
        local earlier = 0
        if j > 0 then earlier = ring_time(ring, j - 1) end
        redis.call('SETRANGE', key, HEADER + ((ring.oldest + j) % ring.size) * SLOT, struct.pack('>d', earlier))
      end
      return 1
    end
  end
  return 0
end

local function ring_clock()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end
