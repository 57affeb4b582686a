"""Small subjects for tests of gates: a candidate, and something that serves.

Example::

    subject("stable 0.1.2", items=make_items(right=[True] * 90 + [False] * 10))
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from examples import MANIFEST, SHA

from fedrelease.experiment import Privacy
from fedrelease.files import digest_bytes
from fedrelease.server.gates.contract import Finding, worst_state
from fedrelease.server.gates.items import Items
from fedrelease.server.gates.subject import Step, Subject, layout_of

SET = digest_bytes(b"evaluation set")
OTHER_SET = digest_bytes(b"another one")
LABELS = ("ham", "spam")
STATE = {"head.weight": torch.arange(6.0).reshape(2, 3), "head.bias": torch.zeros(2)}


def make_items(
    right: Sequence[bool],
    *,
    truth: Sequence[int] | None = None,
    labels: tuple[str, ...] = LABELS,
    group: Sequence[str] | None = None,
    loss: float | Sequence[float] = 0.5,
    **more: Any,
) -> Items:
    """Items that are answered rightly where ``right`` says so; labels take turns, and all are the server's."""
    n = len(right)
    true = np.array(truth if truth is not None else [place % len(labels) for place in range(n)], dtype=np.int64)
    said = np.where(np.array(right, dtype=np.bool_), true, (true + 1) % len(labels))
    return Items(
        evaluation=more.pop("evaluation", SET),
        labels=labels,
        truth=true,
        predicted=said,
        loss=np.broadcast_to(np.asarray(loss, dtype=np.float32), (n,)).copy(),
        group=tuple(group if group is not None else ["server"] * n),
        **more,
    )


def right(n: int, wrong: Sequence[int] = ()) -> list[bool]:
    """All right but for the places named."""
    named = set(wrong)
    return [place not in named for place in range(n)]


def subject(name: str = "candidate 0.1.3", *, version: str = "0.1.3", **more: Any) -> Subject:
    """A release of which all was measured and is in order; ``more`` replaces parts of it or of its manifest."""
    facts = {key: more.pop(key) for key in tuple(more) if key in MANIFEST.__dataclass_fields__}
    whole: Mapping[str, Any] = {
        "state": STATE,
        "digests": {"adapter.safetensors": SHA},
        "declared": layout_of(STATE),
        "items": make_items(right(1000, range(100))),
        "step": Step(norm=1.0, earlier=(0.9, 1.0, 1.1, 1.05), cosine=0.4, accepted=4, refused=0),
        "plan": Privacy(epsilon=8.0, delta=1e-5),
        "seconds": np.linspace(0.010, 0.011, 40),
        "memory_bytes": 1000,
        "looks": 3,
    }
    manifest = replace(MANIFEST, **{"version": version, "round": 3, **facts})
    return Subject(name=name, manifest=manifest, **{**whole, **more})


STABLE = subject("stable 0.1.2", version="0.1.2")


def states(findings: Sequence[Finding]) -> dict[str, str]:
    """Slice -> state."""
    return {finding.slice: finding.state for finding in findings}


def held(findings: Sequence[Finding]) -> bool:
    """Whether these findings alone would hold a release."""
    return worst_state(findings) != "pass"
