-- A wait that a provider asked for and that is longer than anybody is to sleep. The pause for it is shorter, and whoever it
-- holds back is refused at once. Part of a bucket and of a quota: {surfaced_until, asked_until}.

-- A wait never shortens another that is not over.
local function surfaced_extend(of, until_then, asked_until, now)
  if of.surfaced_until <= now then of.surfaced_until, of.asked_until = 0, 0 end
  of.surfaced_until = math.max(of.surfaced_until, until_then)
  of.asked_until = math.max(of.asked_until, asked_until)
end

-- What is left of the wait that was asked for; 0 if the pause until `paused_until` is one to wait out: because this is
-- over, or since the pause lasts as long as was asked.
local function surfaced_asked(of, paused_until, now)
  return of.surfaced_until > now and of.asked_until > paused_until and of.asked_until - now or 0
end
