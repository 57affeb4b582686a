"""What lies between two releases: answers in pairs, metrics, tensors that moved, privacy, sites, gates and configuration.

Example::

    found = difference(store.find("0.1.2"), store.find("0.2.3"))
    found.tensors[0].name, found.tensors[0].relative             # ('head.weight', 0.41): moved by 41 % of its length
    found.slices[0].difference, found.slices[0].low              # (-0.012, -0.031) of accuracy, on the same items
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from torch import Tensor

from fedrelease.experiment_file import differences
from fedrelease.gate_rules import LossRule, QualityRule
from fedrelease.manifest import Manifest, MetricsFacts
from fedrelease.server.gates import GateReport
from fedrelease.server.gates.bootstrap import bca_bounds
from fedrelease.server.gates.pairs import Pairs, Slice, discordant, pair, slices
from fedrelease.server.gates.statistics import compare
from fedrelease.server.judging import reports_of, subject_of
from fedrelease.server.release import Release, experiment_of
from fedrelease.update import State

__all__ = ["Difference", "GateChange", "MetricChange", "Moved", "SliceChange", "difference", "moved_tensors"]

ALPHA = 0.05
"""Of each bound, so that both together are an interval at 90 %."""
SEED = 0


@dataclass(frozen=True, kw_only=True)
class SliceChange:
    """Some of the items that both releases answered.

    Attributes:
        before, after: accuracy, or mean loss in nats.
        low, high: bounds of the difference, after minus before, each one-sided at 5 %.
    """

    slice: str
    metric: str
    n: int
    before: float
    after: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class MetricChange:
    """A number of the manifests; ``who`` is ``mean``, ``worst``, ``server`` or ``site:<name>``. None where one has it not."""

    who: str
    metric: str
    before: float | None
    after: float | None


@dataclass(frozen=True, kw_only=True)
class Moved:
    """One tensor: ``|after - before| / |before|``, L2. None where it is new, gone, of another shape, or was 0."""

    name: str
    relative: float | None
    distance: float | None
    what: str


@dataclass(frozen=True, kw_only=True)
class GateChange:
    """What a gate said of a slice in the reports that decided; None where it was not asked."""

    gate: str
    slice: str
    before: str | None
    after: str | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Everything. ``unpaired``: why there are no paired intervals, where there are none. ``tensors``: furthest first."""

    slices: tuple[SliceChange, ...]
    unpaired: str | None
    metrics: tuple[MetricChange, ...]
    tensors: tuple[Moved, ...]
    epsilon: tuple[float | None, float | None]
    joined: tuple[str, ...]
    left: tuple[str, ...]
    config: tuple[str, ...]
    environment: tuple[str, ...]
    gates: tuple[GateChange, ...]


def difference(before: Release, after: Release) -> Difference:
    """Compare two releases by what was kept of them; any two, in any order.

    Raises:
        DamagedRelease: a file of one of them is not what was released.
    """
    old, new = before.manifest, after.manifest
    pairs = pair(subject_of("", after).items, subject_of("", before).items)
    trained = [{one.site for one in manifest.federation.accepted} for manifest in (old, new)]
    return Difference(
        slices=() if isinstance(pairs, str) else tuple(_slices(pairs)),
        unpaired=_unpaired(before, after, pairs) if isinstance(pairs, str) else None,
        metrics=tuple(_metrics(old.metrics, new.metrics)),
        tensors=moved_tensors(before.state(), after.state()),
        epsilon=(_epsilon(old), _epsilon(new)),
        joined=tuple(sorted(trained[1] - trained[0])),
        left=tuple(sorted(trained[0] - trained[1])),
        config=_config(before, after),
        environment=_changed(old.environment, new.environment),
        gates=tuple(_gates(_report(before), _report(after))),
    )


def moved_tensors(before: State, after: State) -> tuple[Moved, ...]:
    """Tensors of either state that differ, furthest first; new, gone and reshaped ones before them."""
    names = sorted({*before, *after})
    found = (_moved(name, before.get(name), after.get(name)) for name in names)
    changed = [one for one in found if one is not None]
    return tuple(sorted(changed, key=lambda one: (-math.inf if one.relative is None else -one.relative, one.name)))


def _moved(name: str, old: Tensor | None, new: Tensor | None) -> Moved | None:
    if old is None or new is None:
        return Moved(name=name, relative=None, distance=None, what="new" if old is None else "gone")
    if old.shape != new.shape or old.dtype != new.dtype:
        what = f"{old.dtype} {list(old.shape)} -> {new.dtype} {list(new.shape)}".replace("torch.", "")
        return Moved(name=name, relative=None, distance=None, what=what)
    distance, length = float((new.double() - old.double()).norm()), float(old.double().norm())
    if distance == 0:
        return None
    relative = distance / length if length else None
    return Moved(name=name, relative=relative, distance=distance, what="moved" if length else "moved from 0")


def _slices(pairs: Pairs) -> Iterator[SliceChange]:
    for slice in slices(pairs):
        b, c, n = discordant(pairs, slice.chosen)
        if n:
            yield _accuracy(pairs, slice, b, c, n)
    if np.isfinite(pairs.was_loss).all() and np.isfinite(pairs.is_loss).all():
        yield _loss(pairs)


def _accuracy(pairs: Pairs, slice: Slice, b: int, c: int, n: int) -> SliceChange:
    found = compare(b, c, n, margin=QualityRule().margin, alpha=ALPHA)
    return SliceChange(
        slice=slice.name,
        metric="accuracy",
        n=n,
        before=float(pairs.was_right[slice.chosen].mean()),
        after=float(pairs.is_right[slice.chosen].mean()),
        difference=(c - b) / n,
        low=found.low,
        high=found.high,
    )


def _loss(pairs: Pairs) -> SliceChange:
    """Over all items; whole sites are drawn where there are ten or more, as the loss gate does."""
    sites = np.unique(pairs.group)
    clusters = np.unique(pairs.group, return_inverse=True)[1] if len(sites) >= 10 else np.arange(len(pairs.group))
    mean, low, high = bca_bounds(
        pairs.is_loss - pairs.was_loss, clusters, alpha=ALPHA, draws=LossRule().draws, seed=SEED
    )
    before, after = float(pairs.was_loss.mean()), float(pairs.is_loss.mean())
    return SliceChange(
        slice="overall",
        metric="loss",
        n=len(pairs.group),
        before=before,
        after=after,
        difference=mean,
        low=low,
        high=high,
    )


def _unpaired(before: Release, after: Release, why: str) -> str:
    without = [one.version for one in (before, after) if not any(f.role == "items" for f in one.manifest.files)]
    return f"no answers item by item are kept of {' and '.join(without)}" if without else why


def _metrics(old: MetricsFacts, new: MetricsFacts) -> Iterator[MetricChange]:
    tables = [_tables(metrics) for metrics in (old, new)]
    for who in [*tables[0], *(who for who in tables[1] if who not in tables[0])]:
        was, now = (table.get(who, {}) for table in tables)
        for metric in sorted({*was, *now} - {"examples"}):
            yield MetricChange(who=who, metric=metric, before=was.get(metric), after=now.get(metric))


def _tables(metrics: MetricsFacts) -> dict[str, Mapping[str, float]]:
    sites = {f"site:{site}": told for site, told in sorted(metrics.sites.items())}
    return {"mean": metrics.mean, "worst": metrics.worst, "server": metrics.server, **sites}


def _epsilon(manifest: Manifest) -> float | None:
    return manifest.privacy.epsilon_total if manifest.privacy else None


def _config(before: Release, after: Release) -> tuple[str, ...]:
    """Keys of the experiment that differ, and what the round itself was: two phases of one experiment differ in no key."""
    old, new = before.manifest, after.manifest
    rounds = _changed(_round(old), _round(new))
    kept = [any(file.path == "experiment.toml" for file in one.manifest.files) for one in (before, after)]
    return (*rounds, *(differences(experiment_of(before), experiment_of(after)) if all(kept) else ()))


def _round(manifest: Manifest) -> dict[str, str]:
    federation = manifest.federation
    knobs = {f"strategy.{name}": str(value) for name, value in federation.strategy_params.items()}
    adapter = {f"adapter.{name}": str(value) for name, value in asdict(manifest.adapter).items()}
    return {"phase": manifest.phase, "strategy": federation.strategy, **knobs, **adapter}


def _changed(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[str, ...]:
    names = sorted({*old, *new})
    return tuple(
        f"{name}: {old.get(name, 'left out')} -> {new.get(name, 'left out')}"
        for name in names
        if old.get(name) != new.get(name)
    )


def _report(release: Release) -> GateReport | None:
    kept = reports_of(release)
    return kept[0] if kept else None


def _gates(old: GateReport | None, new: GateReport | None) -> Iterator[GateChange]:
    """Slices of gates whose worst state is another one now."""
    before, after = _states(old), _states(new)
    for key in sorted({*before, *after}):
        if before.get(key) != after.get(key):
            yield GateChange(gate=key[0], slice=key[1], before=before.get(key), after=after.get(key))


def _states(report: GateReport | None) -> dict[tuple[str, str], str]:
    order: Sequence[str] = ("error", "fail", "inconclusive", "pass", "skipped")
    found: dict[tuple[str, str], str] = {}
    for finding in report.findings if report else ():
        key = (finding.gate, finding.slice)
        found[key] = min(found.get(key, finding.state), finding.state, key=order.index)
    return found
