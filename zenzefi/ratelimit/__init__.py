"""Rate limits: exact sliding windows over all processes, and still standing when Redis falls.

Algorithm. Each subject of a class has a ring of the times of its last N admissions in Redis (``ring.lua``): a
request is admitted if and only if the N-th last admission has left the window, decided atomically by Redis' own
clock, which is never taken to run backwards. A rejected request writes nothing, so that asking again does not
lengthen the wait.

Leases. Asking Redis for each request costs more than all the rest of it, so a process charges k permits at once and
spends them within δ = LEASE_S. Every admission thus happens at most δ after the time in the ring, and the ring
counts over W + δ: any W seconds of real admissions lie inside W + δ seconds of the ring's times, which hold at most
N. So N per W is never exceeded; the price is that a permit comes back δ later. k doubles while leases are spent to
the end and falls to what was spent when one ran out, so that little is charged in vain; near the limit Redis gives
small portions.

Without Redis a process counts for itself: a share of floor(N / processes) of each limit, and a class whose share is
0 answers 503. What it admits meanwhile is charged when Redis is back, and so is what the ring had counted if Redis
lost it.
"""
