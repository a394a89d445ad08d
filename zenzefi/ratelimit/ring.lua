-- An exact sliding window: a ring of the last admissions' times, packed into one string.
--
-- Layout: number of slots (4 bytes), index of the oldest one (4), time of the last write (8), time when the ring was made
-- (8; 0 when it was reset), then the slots of 8 bytes each, all big-endian; a slot holds microseconds since 1970 as a
-- double, 0 where nothing was admitted yet. The i-th oldest admission stands in slot (oldest + i) % size, so the times
-- rise with i and a binary search counts those that have left the window. The size is the largest limit that the ring has
-- known: a limit that is lowered and raised again must not make it forget.

local HEADER, SLOT = 24, 8

local function ring_bytes(ring, at, count)
  if count == 0 then return '' end
  local bytes = redis.call('GETRANGE', ring.key, HEADER + at * SLOT, HEADER + (at + count) * SLOT - 1)
  return bytes .. string.rep('\0', count * SLOT - #bytes)
end

-- The slots of `count` admissions from the `from`-th oldest on.
local function ring_get(ring, from, count)
  local at = (ring.oldest + from) % ring.size
  local first = math.min(count, ring.size - at)
  return ring_bytes(ring, at, first) .. ring_bytes(ring, 0, count - first)
end

local function ring_put(ring, from, slots)
  if slots == '' then return end
  local at = (ring.oldest + from) % ring.size
  local first = math.min(#slots, (ring.size - at) * SLOT)
  redis.call('SETRANGE', ring.key, HEADER + at * SLOT, string.sub(slots, 1, first))
  if #slots > first then redis.call('SETRANGE', ring.key, HEADER, string.sub(slots, first + 1)) end
end

local function ring_header(ring)
  return struct.pack('>I4I4dd', ring.size, ring.oldest, ring.last, ring.born)
end

local function ring_grow(ring, limit)
  local slots = string.rep('\0', (limit - ring.size) * SLOT) .. ring_get(ring, 0, ring.size)
  ring.size, ring.oldest = limit, 0
  redis.call('SET', ring.key, ring_header(ring) .. slots, 'KEEPTTL')
end

local function ring_open(key, limit, now)
  local ring = {key = key, size = limit, oldest = 0, now = now, last = now, born = now, known = false}
  local header = redis.call('GETRANGE', key, 0, HEADER - 1)
  if #header < HEADER then return ring end
  ring.known = true
  ring.size, ring.oldest, ring.last, ring.born = struct.unpack('>I4I4dd', header)
  -- A clock that steps back must not shorten the window: time stands still until it has caught up.
  if ring.now < ring.last then ring.now = ring.last end
  if ring.size < limit then ring_grow(ring, limit) end
  return ring
end

local function ring_time(ring, i)
  return (struct.unpack('>d', ring_get(ring, i, 1)))
end

-- How many admissions are not later than `edge`, empty slots included: they are the i-th oldest for i below it.
local function ring_until(ring, edge)
  local low, high = 0, ring.size
  if ring_time(ring, high - 1) <= edge then return high end
  while low < high do
    local middle = math.floor((low + high) / 2)
    if ring_time(ring, middle) <= edge then low = middle + 1 else high = middle end
  end
  return low
end

-- How many admissions the window holds.
local function ring_used(ring, window)
  if not ring.known then return 0 end
  return ring.size - ring_until(ring, ring.now - window)
end

local function ring_write(ring, count, window)
  if count == 0 then return end
  ring_put(ring, 0, string.rep(struct.pack('>d', ring.now), count))
  ring.oldest = (ring.oldest + count) % ring.size
  ring.known, ring.last = true, ring.now
  redis.call('SETRANGE', ring.key, 0, ring_header(ring))
  redis.call('PEXPIRE', ring.key, math.ceil(window / 1000) + 1000)
end

-- Take back up to `count` admissions of the time `stamp`, as if they had not been made. Those of one time are alike, so
-- it does not matter whose they were; but nobody may give back more than it got.
local function ring_take_back(ring, count, stamp)
  if not ring.known or count == 0 then return end
  local after = ring_until(ring, stamp)
  local first = after
  while first > 0 and after - first < count and ring_time(ring, first - 1) == stamp do first = first - 1 end
  count = after - first
  ring_put(ring, first, ring_get(ring, after, ring.size - after) .. string.rep('\0', count * SLOT))
  ring.oldest = (ring.oldest - count) % ring.size
  redis.call('SETRANGE', ring.key, 0, ring_header(ring))
end

-- Admit at least `least` and at most `want`, or none. `argv` holds, from `from` on: limit, window in microseconds, want,
-- least, debt (admitted without asking, while Redis was away: charged first), history (what the caller admitted in this
-- window with leave), the ring as it was told to the caller (if this is another one, the old one was lost and the history
-- is charged, too), how many permits of an earlier charge come back unused, and the time of that charge.
-- Returns {admitted, free, microseconds until a retry succeeds, microseconds until one leaves the window, time, ring}.
local function ring_charge(key, argv, from, now)
  local limit, window, want, least, debt, history = unpack(argv, from, from + 5)
  limit, window, want, least, debt = tonumber(limit), tonumber(window), tonumber(want), tonumber(least), tonumber(debt)
  local ring = ring_open(key, limit, now)
  local born = string.format('%.0f', ring.born)
  if not ring.known or (ring.born ~= 0 and born ~= argv[from + 6]) then debt = debt + tonumber(history) end
  ring_take_back(ring, tonumber(argv[from + 7]), tonumber(argv[from + 8]))
  -- Not capped by what is free: these were admitted, and the ring is to hold the last of them all.
  ring_write(ring, math.min(debt, ring.size), window)
  local used = ring_used(ring, window)
  local free = math.max(0, limit - used)
  local stamp = string.format('%.0f', ring.now)
  if free < least then
    -- The retry succeeds when the newest of those that are in its way has left.
    local retry = ring_time(ring, ring.size - limit + least - 1) + window - ring.now
    return {0, free, math.max(1, retry), 0, stamp, born}
  end
  -- The last permits are handed out in small portions: a process that hoards them would keep them from the others.
  local admitted = math.min(want, math.max(least, math.floor(free / 4)))
  ring_write(ring, admitted, window)
  used = used + admitted
  local leaves = 0
  if used > 0 then leaves = ring_time(ring, ring.size - used) + window - ring.now end
  return {admitted, free - admitted, 0, leaves, stamp, ring.known and born or ''}
end

local function ring_clock()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end
