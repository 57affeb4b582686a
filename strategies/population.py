"""How many sites stand behind those that answered: for rules whose memory is a mean over all of them.

Example::

    share_of(updates, 40)            # 0.25, of 10 updates
"""

from collections.abc import Sequence

from fedrelease.bounds import require
from fedrelease.errors import RoundFailed
from fedrelease.update import Update

__all__ = ["check_population", "share_of"]


def check_population(name: str, population: int | None) -> None:
    """Refuse a number of sites that is none.

    Raises:
        ExperimentError: it is no whole number of at least 1.
    """
    whole = population is None or (type(population) is int and population >= 1)
    require(whole, f"{name}'s population", population, "is a whole number of sites, at least 1")


def share_of(updates: Sequence[Update], population: int | None) -> float:
    """The share of all sites that answered; 1 where nobody says how many there are.

    Raises:
        RoundFailed: more sites answered than there are said to be.
    """
    if population is None:
        return 1.0
    if len(updates) > population:
        raise RoundFailed(
            f"{len(updates)} sites answered",
            value=population,
            rule="the strategy's population is at least the number of sites in a round",
            hint="raise population, or leave it out: then it is the number of sites that the phase may ask",
        )
    return len(updates) / population
