"""How long a store keeps what is large about its releases: housekeeping, which changes no release and no digest.

Example::

    Retention(releases=20, held=5, updates=2)            # fedrelease gc --apply retires what is older
    Retention()                                          # everything stays
"""

from dataclasses import dataclass

from fedrelease.bounds import require

__all__ = ["Retention"]


@dataclass(frozen=True, kw_only=True)
class Retention:
    """The newest so many keep theirs; left out = all of them. What something still needs stays whatever the numbers say.

    Attributes:
        releases: of those that were released, how many keep their weights and their outcomes item by item.
        held: the same of those that gates held.
        memory: of all releases, how many keep their strategy's memory; it goes with the weights at the latest.
        updates: of all rounds, how many keep the updates that ``federation.keep_updates`` kept.
    """

    releases: int | None = None
    held: int | None = None
    memory: int | None = None
    updates: int | None = None

    def __post_init__(self) -> None:
        """Check bounds."""
        for key, least in (("releases", 1), ("held", 0), ("memory", 0), ("updates", 0)):
            count = getattr(self, key)
            require(count is None or count >= least, f"retention.{key}", count, f"is at least {least}, or left out")

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is ever retired."""
        return self == Retention()
