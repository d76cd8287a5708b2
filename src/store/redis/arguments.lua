-- Applies a batch to its buckets, once. Each file says in Lua what the file of its name in
-- src/engine says in Rust; a function that has its namesake there is documented there. What is
-- rarely needed follows a line "-- RARE group": the functions of a group are made when
-- `rare.group` is first asked for, so that a plain reserve or settle does not make them.
-- Constants, which are in capitals, are put in their places (see script.rs).
--
-- KEYS     two per bucket, all in one hash slot: its state (see bucket.lua) and its index of due
--          times (see due.lua).
-- ARGV[1]  packed numbers (little-endian doubles), integers but for the tags and parts of flows:
--            session, seq, lease, whether messages are sharded (0 or 1; and 2 more if none reach
--            the session), whether any reserve that waits is of a flow (0 or 1), how many buckets;
--            per bucket: id, whether the batch says what waits there (0 or 1), digest of the rules,
--            how many numbers its state has, how many rules, and those (see rule.lua);
--            operations.
-- ARGV[2]  channel of wake-ups without the session's number; empty if there are to be none.
-- ARGV[..]  one per bucket: a line for each of its rules, which tells what it is; or empty. It is
--          kept for those who look, and decides nothing.
--
-- Operations of kinds 0 to 8 come in runs: kind, how many, three numbers, how many numbers follow
-- the indexes of the buckets, how many buckets, and those; then columns: for each number that an
-- operation has, the index in the message where that of the first one is, and how far the next one
-- is from it (0 if all have the same); then all these numbers.
--   0 to 3   a reserve in mode charge, wait, try, dry; the three are headroom, flow, weight. Per
--            reserve: waiter, age, costs, patience.
--   4, 5     a settle that closes, or does not. Per settle: when it was granted, by the time of
--            each bucket; what was reserved; actual amounts.
--   6, 7     the same of a claim, which is the first of the three.
--   8        detach; the first two are claim and lease. Per detach: what was reserved.
-- The others are kind, index of the bucket, and:
--   9        waiting: how many lines; per line rule, headroom, flow, space, waiter, age, cost,
--            part, count, sum, last.
--   10       pause: for how long.
--   11       refused: whether a quota was, its rule's id, when the call was granted, the wait that
--            was asked for, how long the pause lasts, the longest.
--   12       answered: when the call was granted.
--   13       cap: rule's id, what is left, when the call was granted, for how long.
--   14       status.
-- No argument carries the time.
--
-- Reply: packed numbers: how many bytes it has, the clock, the outcome (0 applied, 1 stale, 2
-- uncharted), and if it was applied, for each bucket its time, its time before, when its state was
-- born and when it expires; then verdicts (see operations.lua), in the order of the operations.

local function clock() local t = redis.call('TIME') return t[1] * 1000000 + t[2] end -- TIME

local session, record_field, message

-- The sum of a column of a run: see above. A column is named by its own index in the message.
local function column_sum(column, many)
  local first, total = message[column], 0
  if message[column + 1] == 0 then return many * message[first] end
  for i = first, first + many - 1 do total = total + message[i] end
  return total
end

-- RARE rows

-- The number of an operation of a run, which is at `i` from 0.
function rows.nth(column, i)
  return message[message[column] + i * message[column + 1]]
end

-- Makes a run of each operation of a run, behind the message. Returns where: each of them takes
-- three times as many numbers as an operation has, of which the last third are its own.
function rows.singly(at, many, width)
  local to = #message
  for i = 0, many - 1 do
    for k = 1, width do
      local own = to + 2 * width + k
      message[to + 2 * k - 1], message[to + 2 * k] = own, 0
      message[own] = rows.nth(at + 2 * k - 2, i)
    end
    to = to + 3 * width
  end
  return to - 3 * width * many + 1
end
