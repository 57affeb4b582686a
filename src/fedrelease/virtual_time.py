"""How simulated sites fare in a world with slow machines, thin lines and people who switch them off.

Example::

    VirtualTime(examples_per_s=50.0, spread=1.0, mbit_per_s=10.0, availability=0.8, dropout=0.05, deadline_s=60.0)

Nothing waits: what a site would have taken is worked out, and a site that would have been late is not asked.
"""

from dataclasses import dataclass

from fedrelease.bounds import positive, require

__all__ = ["VirtualTime"]


@dataclass(frozen=True, kw_only=True)
class VirtualTime:
    """Profiles of simulated sites; a deployment takes no notice of them.

    Attributes:
        examples_per_s: rows that the middle site trains on in a virtual second; left out = no virtual time.
        spread: how unequal sites are: the standard deviation of the logarithm of their speeds and of their lines.
        mbit_per_s: what the middle site's line carries, each way, in 10**6 bits a second; left out = transfers take no time.
        availability: share of rounds in which a site is there at all.
        dropout: share of the trainings that break off before their end.
        deadline_s: virtual seconds after which an answer comes too late; left out = a round waits for all.
    """

    examples_per_s: float | None = None
    spread: float = 0.0
    mbit_per_s: float | None = None
    availability: float = 1.0
    dropout: float = 0.0
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        """Check bounds."""
        for key in ("examples_per_s", "mbit_per_s", "deadline_s"):
            value = getattr(self, key)
            if value is not None:
                positive(f"virtual_time.{key}", value)
        require(0 <= self.spread <= 5, "virtual_time.spread", self.spread, "is between 0 and 5")
        require(0 < self.availability <= 1, "virtual_time.availability", self.availability, "is above 0 and at most 1")
        require(0 <= self.dropout < 1, "virtual_time.dropout", self.dropout, "is at least 0 and below 1")
        own = (self.spread, self.mbit_per_s, self.availability, self.dropout, self.deadline_s)
        used = own != (0.0, None, 1.0, 0.0, None)
        rule, hint = "is set where another key of the section is", "set it, for example to 50"
        require(
            self.examples_per_s is not None or not used,
            "virtual_time.examples_per_s",
            self.examples_per_s,
            rule,
            hint,
        )
