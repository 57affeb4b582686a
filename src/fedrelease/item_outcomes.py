"""What a state said about each row of a hold-out: facts that a site tells where privacy lets it, and the server has of its own.

Example::

    outcomes = Outcomes(parts={"ham": sha256, "spam": sha256}, truth=(0, 1, 1), predicted=(0, 1, 0), loss=(0.1, 0.2, 1.9))
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fedrelease.errors import UpdateRefused
from fedrelease.manifest import check_sha256

__all__ = ["Outcomes"]


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """One entry a row, in the order of the hold-out.

    Attributes:
        parts: by label that occurs, the sha256 of that label's rows in their order: the same rows, the same text.
        truth, predicted: places among ``model.labels``.
        loss: cross-entropy in nats.
    """

    parts: Mapping[str, str]
    truth: tuple[int, ...]
    predicted: tuple[int, ...]
    loss: tuple[float, ...]

    def check(self, labels: tuple[str, ...]) -> None:
        """Refuse what no hold-out with these labels gives.

        Raises:
            UpdateRefused: lengths differ, a number is no label's place, or a part is missing or no sha256.
        """
        if not len(self.truth) == len(self.predicted) == len(self.loss):
            lengths = [len(self.truth), len(self.predicted), len(self.loss)]
            raise UpdateRefused("the items are not told one by one", value=lengths, rule="three lists of one length")
        places = range(len(labels))
        if wrong := sorted({place for place in (*self.truth, *self.predicted) if place not in places}):
            raise UpdateRefused("an item has no such label", value=wrong[0], rule=f"places among {len(labels)} labels")
        if set(self.parts) != {labels[place] for place in self.truth}:
            raise UpdateRefused("the parts are not those of the items' labels", value=sorted(self.parts))
        for part in self.parts.values():
            check_sha256(part)
