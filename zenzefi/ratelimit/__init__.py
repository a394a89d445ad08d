"""Rate limits: exact sliding windows over all processes, and still standing when Redis falls.

Algorithm. Each subject of a class has a ring of the times of its last N admissions in Redis (``ring.lua``): a
request is admitted if and only if the N-th last admission has left the window, decided atomically by Redis' own
clock, which is never taken to run backwards. A rejected request writes nothing, so that asking again does not
lengthen the wait.

Leases. Asking Redis for each request costs more than all the rest of it, so a process charges k permits at once and
spends them within δ, a second (a twentieth of windows below 20 s). Every admission thus happens at most δ after its
time in the ring, and the ring counts over W + δ: any W seconds of real admissions lie inside W + δ seconds of the
ring's times, which hold at most N.

Bound. Never more than N are admitted in any W seconds, by any number of processes, however they are stopped or die.
A permit comes back δ late: who asks for more than the limit gets N per W + δ, which is 98.4 % of 1000/60. k follows
the rate at which the last lease was spent, is a tenth of a process's share of N at most, and small near the limit;
what is left of a lease goes back with the next call, so that nothing is charged in vain.

Without Redis a process counts for itself: it admits floor(N / processes) in a window, what it admitted before
included, and a class whose share is 0 answers 503. What it admits meanwhile is charged when Redis is back, within
some two seconds even if nobody asks, and so is what it admitted before if the ring was lost: each ring has the time
of its making, by which a process tells another one from the one it knew. Until all have reported, they may together
admit up to their shares on top of N. Subjects are remembered up to a number (``limiter.SUBJECTS``); one that is
forgotten in an outage owes nothing any more.

Measured with two processes: scripts run by Redis for each proxied request, those that check the token and its device
included, for one call does both. At 1000/60 and one token, as fast as possible: 0.03 (most requests are refused from
memory); 15 requests a second on one connection: 0.10, on changing ones: 0.17. At 1000000/60, as fast as possible, one
token: 0.01, fifty: 0.09. A token costs a process about one call in each second in which it is used: twenty tokens of
10 requests a second, each on both processes, take 0.26. A request that a lease admits costs 1 µs of CPU. With Redis
hung, 99 % of the requests were answered within 55 ms, 40 ms more than before; with Redis dead, read-only, emptied or
without its scripts, within what they took before.
"""
