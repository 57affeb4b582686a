"""Who arrives when, in federations that do not wait for the slowest site.

Example::

    table = timetable(rounds, "0.0.0", waits_for=5, sites=names, seed=7, seconds_of=clock)
    table["0.1.3"]                       # {"site-04": "0.1.2", "site-17": "0.1.0"}: the second one trains from an older release

So many sites are under way at all times; the first ``waits_for`` of them to finish make a round. Then others begin, from the
release that the round became. Nothing is remembered: the table follows from the plan, the seed and the sites' speeds, so that a
run which goes on, or is repeated, meets the same arrivals.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush

from fedrelease.server.plan import PlannedRound, cohort

__all__ = ["Arrivals", "timetable"]

Arrivals = Mapping[str, str]
"""The sites whose updates make a round, and the version that each of them trained from."""


def timetable(
    rounds: Sequence[PlannedRound],
    before: str,
    *,
    waits_for: Callable[[int], int],
    sites: Sequence[str],
    seed: int,
    seconds_of: Callable[[str], float],
) -> Mapping[str, Arrivals]:
    """Arrivals by version, for all rounds of one phase.

    Args:
        rounds: of the phase, in order. before: the version that the first of them begins with.
        waits_for: how many of so many sites under way end a round.
        seconds_of: how long a site takes, from the question to the answer.
    """
    now, found = 0.0, dict[str, Arrivals]()
    under_way: list[tuple[float, str, str]] = []
    for planned in rounds:
        asked = cohort(planned, sites=sites, seed=seed)
        for site in _beginners(asked, {site for _, site, _ in under_way}, key=f"{seed}\x1f{planned.version}"):
            heappush(under_way, (now + seconds_of(site), site, before))
        arrived = [heappop(under_way) for _ in range(min(len(under_way), waits_for(len(asked))))]
        now, before = arrived[-1][0], planned.version
        found[planned.version] = dict(sorted((site, begun) for _, site, begun in arrived))
    return found


def _beginners(asked: Sequence[str], busy: set[str], *, key: str) -> list[str]:
    """Those of the round's cohort who are free, until as many are under way as it counts; by a hash: no name is favoured."""

    def rank(site: str) -> bytes:
        return hashlib.sha256(f"{key}\x1fbegins\x1f{site}".encode()).digest()

    return sorted((site for site in asked if site not in busy), key=rank)[: max(0, len(asked) - len(busy))]
