"""Sites that answer with real tensors in this process, for tests of rounds without Flower and without training.

Example::

    sites = FakeSites("ab")
    setting = make_setting(tmp_path / "releases", sites)
    run(setting)
    sites.asked                      # [('train', '0.1.1', 'a'), ('train', '0.1.1', 'b'), ...]
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from examples import RECEIPT
from torch import Tensor

from fedrelease.experiment import Experiment, Federation, Phase, Privacy
from fedrelease.files import digest_bytes
from fedrelease.messages import Answer, Request
from fedrelease.models.bases import Base, Pooling
from fedrelease.privacy import Receipt
from fedrelease.server.events import Event
from fedrelease.server.gather import Seen, Setting
from fedrelease.server.rounds import run_rounds
from fedrelease.server.sites import Reply
from fedrelease.server.store import Store
from fedrelease.server.stragglers import Stragglers
from fedrelease.update import State

BASE = Base(
    "tiny", Path("base"), {"config.json": digest_bytes(b"{}"), "model.safetensors": digest_bytes(b"")}, Pooling()
)
START: Mapping[str, Tensor] = {"head.bias": torch.zeros(2), "layer.lora_A": torch.arange(6.0).reshape(2, 3)}
MATRIX = ((3.0, 1.0), (2.0, 4.0))
Spoil = Callable[[Reply], Reply]


def receipt(site: str, pool: str = "train", **changes: float | str) -> Receipt:
    """What a private site that keeps every rule says."""
    kept = replace(RECEIPT, site=site, charge=digest_bytes(f"{site} {pool}".encode()), pool=pool)
    return replace(kept, **changes)  # type: ignore[arg-type]  # the test's own fields


def moved(site: str, version: str, state: State) -> dict[str, Tensor]:
    """Deltas whose sum depends on the order in which they are added, and on site and version."""
    numbers = torch.Generator().manual_seed(int(digest_bytes(f"{site} {version}".encode())[:8], 16))
    return {name: value + torch.randn(value.shape, generator=numbers) for name, value in state.items()}


class FakeSites:
    """Answers as told, in an order of its own. ``spoil`` changes the replies of the sites that it names."""

    def __init__(
        self, names: Sequence[str], *, private: bool = False, seed: int = 0, spoil: Mapping[str, Spoil] | None = None
    ) -> None:
        """Who there is, and in which (seeded) order they answer."""
        self._names = tuple(names)
        self._private = private
        self._order = random.Random(seed)
        self.spoil = dict(spoil or {})
        self.asked: list[tuple[str, str, str]] = []
        self.sent: dict[str, State] = {}

    def names(self) -> tuple[str, ...]:
        """All sites, sorted."""
        return tuple(sorted(self._names))

    def train(
        self,
        request: Request,
        state: State,
        sites: Sequence[str],
        companions: State | None = None,
        stragglers: Stragglers | None = None,
    ) -> Iterator[Reply]:
        """Every site trains. Companions come back moved, too, and ``sent`` remembers them."""
        del stragglers
        self.sent[request.version] = dict(companions or {})
        for site in self._shuffled("train", request, sites):
            told = receipt(site) if self._private else None
            answer = Answer(site=site, examples=None if self._private else 10, metrics={"steps": 1.0}, receipt=told)
            arrays, beside = moved(site, request.version, state), moved(site, request.version, companions or {})
            yield self._spoilt(Reply(site=site, answer=answer, arrays=arrays, companions=beside))

    def evaluate(
        self, request: Request, state: State, sites: Sequence[str], stragglers: Stragglers | None = None
    ) -> Iterator[Reply]:
        """Every site has the same hold-out."""
        del state, stragglers
        for site in self._shuffled("evaluate", request, sites):
            told = receipt(site, "holdout") if self._private else None
            yield Reply(site=site, answer=Answer(site=site, metrics={}, confusion=_seen(request), receipt=told))

    def _shuffled(self, step: str, request: Request, sites: Sequence[str]) -> list[str]:
        self.asked += [(step, request.version, site) for site in sites]
        return self._order.sample(list(sites), len(sites))

    def _spoilt(self, reply: Reply) -> Reply:
        return self.spoil.get(reply.site, lambda same: same)(reply)

    def trained(self, version: str) -> list[str]:
        """Who was asked to train for a version, as often as asked."""
        return sorted(site for step, asked, site in self.asked if (step, asked) == ("train", version))


def _seen(request: Request) -> tuple[tuple[float, ...], ...]:
    """As many rows and columns as the round has labels; one item right of each that came later."""
    more = len(request.labels) - len(MATRIX)
    later = tuple((0.0,) * (2 + place) + (1.0,) + (0.0,) * (more - place - 1) for place in range(more))
    return (*((*row, *(0.0,) * more) for row in MATRIX), *later)


def make_experiment(*, rounds: int = 2, unit: str = "none", quorum: float = 0.5, keep: bool = False) -> Experiment:
    """A plan of a few rounds."""
    return Experiment(
        federation=Federation(quorum=quorum, keep_updates=keep),
        privacy=Privacy(unit=unit),
        phases=(Phase(name="pilot", rounds=rounds),),
    )


def make_setting(
    folder: Path,
    sites: FakeSites,
    *,
    experiment: Experiment | None = None,
    watch: Callable[[Event], None] = lambda event: None,
    start: State = START,
    seconds_of: Callable[[str, int], float] | None = None,
) -> Setting:
    """Everything that rounds need."""
    return Setting(
        experiment=experiment or make_experiment(),
        store=Store.create_or_open(folder),
        sites=sites,
        base=BASE,
        initial=lambda round: dict(start),
        look=lambda state, round: Seen(),
        watch=watch,
        seconds_of=seconds_of,
    )


def run(setting: Setting) -> str:
    """The whole plan; the head's digest."""
    with setting.store.lock():
        run_rounds(setting)
    head = setting.store.head()
    assert head is not None
    return head.digest
