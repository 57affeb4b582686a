"""The site's own record of privacy spent on its data: append-only, charged before training, never refunded.

Example::

    ledger = Ledger(Path("sites/amazon/ledger.jsonl"))
    standing = ledger.charge(entry, budget=8.0, delta=1e-5)     # on disk before it returns
    standing.epsilon_total

A charge is known by an identity that covers everything its answer depends on. With seeded noise the same charge gives the
same answer bit for bit, so that asking again after a crash tells nothing new and costs nothing more. With secure noise every
attempt has an identity of its own, and costs.

Every line ends with a seal, the sha256 of the seal before it and of its own charge, so that a line that was altered, swapped
or taken out is found. It is no signature: who can write the file can seal it anew, and lines cut off at its end leave no trace.
"""

import fcntl
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from fedrelease.accounting import Segment, spent
from fedrelease.errors import BudgetExceeded, PrivacyError
from fedrelease.files import Json, append_durably, canonical_bytes, digest_bytes, read_lines

__all__ = ["Entry", "Ledger", "Standing", "total"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One charge.

    Attributes:
        charge: identity; see the module's text.
        pool: which of the site's rows it touches: ``train`` or ``holdout``. A row is in one of them only.
        split: digest of how rows were told apart into pools.
        noise_multiplier: noise / sensitivity. sample_rate: of Poisson sampling. steps: how many.
    """

    charge: str
    pool: str
    split: str
    noise_multiplier: float
    sample_rate: float
    steps: int
    accountant: str
    delta: float
    federation: str
    version: str

    def __post_init__(self) -> None:
        """Check what the accountant relies on: a charge never takes anything back.

        Raises:
            ValueError: the text names the field.
        """
        for field, holds in (
            ("noise_multiplier", math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0),
            ("sample_rate", 0 < self.sample_rate <= 1),
            ("steps", type(self.steps) is int and self.steps >= 1),
            ("delta", 0 < self.delta < 1),
        ):
            if not holds:
                raise ValueError(f"{field} is out of bounds")

    def segment(self) -> Segment:
        """The event for the accountant."""
        return Segment(self.noise_multiplier, self.sample_rate, self.steps)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where the site stands after a charge, in epsilon at the charge's delta."""

    epsilon_round: float
    epsilon_total: float
    repeated: bool


class Ledger:
    """One site's ledger file.

    Guarantees: :meth:`charge` returns only after its line is on disk; a refused charge writes nothing; no method removes a
    line; two processes that charge at once are served one after the other.
    """

    def __init__(self, path: Path) -> None:
        """Name the file; it is made by the first charge."""
        self._path = path

    def entries(self) -> tuple[Entry, ...]:
        """All charges, oldest first.

        Raises:
            PrivacyError: a line is not a charge, or its seal is broken. The ledger is never guessed at.
        """
        return self._read()[0]

    def _read(self) -> tuple[tuple[Entry, ...], str]:
        """All charges, and the seal of the last one."""
        entries: list[Entry] = []
        seal = ""
        for number, line in enumerate(read_lines(self._path), start=1):
            entry, seal = self._parse(number, line, seal)
            entries.append(entry)
        return tuple(entries), seal

    def _parse(self, number: int, line: bytes, before: str) -> tuple[Entry, str]:
        try:
            fields = json.loads(line)
            seal = fields.pop("seal")
            if seal != _seal(before, fields):
                raise ValueError("the seal is broken")
            for key in ("noise_multiplier", "sample_rate", "delta"):
                fields[key] = float(fields[key])
            return Entry(**fields), seal
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise PrivacyError(
                f"{self._path} line {number} is not a charge: {error}",
                value=line[:80].decode(errors="replace"),
                rule="a ledger is written by this program only, and never edited",
                hint="restore the file from a backup; training without the true history would break its promise",
            ) from error

    def charge(self, entry: Entry, *, budget: float) -> Standing:
        """Write ``entry`` down unless it would take the site over ``budget``.

        A charge that is in the ledger already is not written again, and stands where it stood: the same question gets the
        same answer, receipt included.

        Raises:
            BudgetExceeded: the history with this charge costs more than ``budget``; nothing was written.
        """
        with self._alone():
            history, seal = self._read()
            place = next((place for place, old in enumerate(history) if old.charge == entry.charge), None)
            repeated = place is not None
            after = (*history, entry) if place is None else history[: place + 1]
            standing = Standing(
                epsilon_round=spent([entry.segment()], delta=entry.delta, accountant=entry.accountant),
                epsilon_total=total(after, delta=entry.delta, accountant=entry.accountant),
                repeated=repeated,
            )
            if not repeated:
                self._refuse_over(budget, standing.epsilon_total, history, entry)
                append_durably(self._path, canonical_bytes({**asdict(entry), "seal": _seal(seal, asdict(entry))}))
        return standing

    def _refuse_over(self, budget: float, after: float, history: Sequence[Entry], entry: Entry) -> None:
        if after <= budget:
            return
        before = total(history, delta=entry.delta, accountant=entry.accountant)
        raise BudgetExceeded(
            f"the privacy budget has no room: spent {before:.3f}, this round would make it {after:.3f}",
            value=f"epsilon {after:.3f} at delta {entry.delta:g}",
            rule=f"at most {budget:g}, over everything in {self._path}",
            hint="raise privacy.epsilon if the site agrees; for a fresh simulation use another --store",
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _seal(before: str, fields: Mapping[str, Json]) -> str:
    """Of one line: covers the seal before it, and so every line until here."""
    return digest_bytes(before.encode() + canonical_bytes(fields))


def total(history: Sequence[Entry], *, delta: float, accountant: str) -> float:
    """The epsilon of a whole ledger at ``delta``.

    Rows are in one pool each, so pools compose in parallel: the worst pool counts. That holds while the split is the same
    throughout; a ledger with two splits composes everything in sequence.
    """
    if len({entry.split for entry in history}) > 1:
        return spent([entry.segment() for entry in history], delta=delta, accountant=accountant)
    pools = {entry.pool for entry in history}
    costs = [
        spent([e.segment() for e in history if e.pool == pool], delta=delta, accountant=accountant)
        for pool in sorted(pools)
    ]
    return max(costs, default=0.0)
