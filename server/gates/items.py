"""What one release said about each item of an evaluation set: a small blob, so that a later release is compared in pairs.

Example::

    items = Items(evaluation=sha256, labels=("ham", "spam"), truth=truth, predicted=predicted, loss=loss, group=sites)
    Items.from_bytes(items.to_bytes()).predicted

Six bytes an item or less: truth, predicted label and site as one or two bytes each, the loss as float16.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedrelease import facts
from fedrelease.errors import DamagedRelease, StoreError
from fedrelease.manifest import check_sha256

__all__ = ["SERVER", "Items"]

SERVER = "server"
"""The group of items of the server's own hold-out."""
KEY = "items"
MOST_CODES = 1 << 16
LARGEST = float(np.finfo(np.float16).max)
HEAD_LENGTH = 8
Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class _Head:
    """What is no array; the only metadata key, since several have no fixed order in safetensors."""

    evaluation: str
    labels: tuple[str, ...]
    known: tuple[str, ...]
    groups: tuple[str, ...]
    parts: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, eq=False)
class Items:
    """Outcomes of one release on one evaluation set; n items in the set's own order.

    Attributes:
        evaluation: sha256 of the evaluation set: of its rows, their labels and sites, and their order.
        labels: of the evaluation set; ``truth`` and ``predicted`` are places in it.
        truth: int64 ``[n]``.
        predicted: int64 ``[n]``.
        loss: float32 ``[n]``, nats; kept as float16, so a finite one is at most 65504.
        group: the site of each item, or ``server``.
        known: labels that the release itself can answer with; left out = all ``labels``.
        parts: by label, the sha256 of that label's rows and their order. With it a release that knew fewer labels can be
            compared on the labels that it knew, although the set has grown; left out = only with the same set.
    """

    evaluation: str
    labels: tuple[str, ...]
    truth: Ints
    predicted: Ints
    loss: NDArray[np.float32]
    group: tuple[str, ...]
    known: tuple[str, ...] = ()
    parts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the arrays belong together."""
        check_sha256(self.evaluation)
        for part in self.parts.values():
            check_sha256(part)
        if not self.known:
            object.__setattr__(self, "known", self.labels)
        n = len(self.group)
        for name in ("truth", "predicted", "loss"):
            if getattr(self, name).shape != (n,):
                shape = list(getattr(self, name).shape)
                raise StoreError(
                    f"{name} does not fit its items", value=shape, rule=f"one number for each of {n} items"
                )
        for name in ("truth", "predicted"):
            codes = getattr(self, name)
            if n and (int(codes.min()) < 0 or int(codes.max()) >= len(self.labels)):
                value, rule = [int(codes.min()), int(codes.max())], f"places among the {len(self.labels)} labels"
                raise StoreError(f"{name} has a number that is no label", value=value, rule=rule)
        unknown = sorted(set(self.known) - set(self.labels))
        if unknown or not 1 <= len(self.labels) <= MOST_CODES:
            rule = f"known labels are among {', '.join(self.labels[:12])}"
            raise StoreError("items have no such label", value=unknown, rule=rule)

    def __len__(self) -> int:
        """How many items there are."""
        return len(self.group)

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each item was answered with its true label, ``[n]``."""
        return np.equal(self.truth, self.predicted)

    def to_bytes(self) -> bytes:
        """One byte form: safetensors with one metadata key. Equal outcomes have equal bytes."""
        groups = tuple(sorted(set(self.group)))
        place = {name: code for code, name in enumerate(groups)}
        head = _Head(
            evaluation=self.evaluation, labels=self.labels, known=self.known, groups=groups, parts=dict(self.parts)
        )
        arrays = {
            "group": _small(np.array([place[name] for name in self.group], dtype=np.int64), len(groups)),
            "loss": _half(self.loss),
            "predicted": _small(self.predicted, len(self.labels)),
            "truth": _small(self.truth, len(self.labels)),
        }
        return save(arrays, metadata={KEY: facts.to_bytes(head).decode()})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Items":
        """The outcomes behind ``data``.

        Raises:
            DamagedRelease: ``data`` is not what :meth:`to_bytes` writes.
        """
        try:
            items = _read(cls, data)
        except (SafetensorError, StoreError, ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise DamagedRelease(f"the predictions of a release cannot be read: {error}") from error
        if items.to_bytes() != data:
            raise DamagedRelease("the predictions of a release are not in their one byte form")
        return items


def _read(kind: type[Items], data: bytes) -> Items:
    arrays = load(data)
    header = json.loads(data[HEAD_LENGTH : HEAD_LENGTH + int.from_bytes(data[:HEAD_LENGTH], "little")])
    head = facts.from_bytes(_Head, header["__metadata__"][KEY].encode())
    return kind(
        evaluation=head.evaluation,
        labels=head.labels,
        truth=arrays["truth"].astype(np.int64),
        predicted=arrays["predicted"].astype(np.int64),
        loss=arrays["loss"].astype(np.float32),
        group=_names(arrays["group"], head.groups),
        known=head.known,
        parts=head.parts,
    )


def _names(codes: NDArray[np.integer], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(names[code] for code in codes.tolist())


def _small(codes: Ints, kinds: int) -> NDArray[np.integer]:
    if kinds > MOST_CODES:
        raise StoreError("too many sites for one evaluation set", value=kinds, rule=f"at most {MOST_CODES}")
    return codes.astype(np.uint8 if kinds <= 256 else np.uint16)


def _half(loss: NDArray[np.float32]) -> NDArray[np.float16]:
    """A finite loss stays finite; one that is not stays visible."""
    return np.where(np.isfinite(loss), np.clip(loss, -LARGEST, LARGEST), loss).astype(np.float16)
