-- Applies a batch to its buckets, once. One script, in parts: this one, the shortcut, and then the engine: each other part
-- says in Lua what the file of its name in src/engine says in Rust.
--
-- KEYS     one per bucket, all in one hash slot.
-- ARGV[1]  the field of the lane: "l" and its packed id.
-- ARGV[2]  packed numbers (little-endian doubles): seq, lease, digest, count, what the shortcut needs to know of so many
--          rules (limit, slot, length each), then operations. A digest of 0 and a count of 0 rule out the shortcut.
-- ARGV[3]  packed numbers: for each bucket its digest, how many rules it has, and those rules. A rule is its id, limit,
--          kind (by KINDS) and whether it is held, then, by kind:
--            sliding: slot, slots; draining: tick, units, burst, max_debt, slot, slots; fixed: length, anchor;
--            in_flight: nothing; calendar: how many boundaries, and those.
-- ARGV[4]  and on: more operations, whole ones:
--            1, 2, 3  reserves in mode wait, try, dry; 4, 5, 6 the same, explained: how many, headroom, the costs of each;
--            7, 8     settles that close, or adjust: how many, then granted at, reserved, actual of each;
--            9, 10    the same of one claim: granted at, claim, reserved, actual;
--            11       detach: claim, lease, reserved;
--            12       pause: for how long;
--            13       status;
--            14       cap: a rule's id, what is left, granted at, for how long;
--            15       the same with nothing left: a rule's id, for how long;
--            16, 17   a pause that nobody waits out, of the bucket, or of a quota, its rule's id first: the wait that was
--                     asked for, for how long.
-- No argument carries the time.
--
-- Reply: packed numbers: the clock, the outcome (0 applied, 1 stale, 2 uncharted), and if it was applied the time at
-- which, for each bucket when its state was born and when it expires, then how many verdicts there are and how
-- many reasons; after that one byte per verdict, and the reasons as packed numbers (see step.lua).

local function clock() local time = redis.call('TIME') return time[1] * 1000000 + time[2] end -- TIME

