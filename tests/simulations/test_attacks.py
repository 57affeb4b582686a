"""Hostile sites: who they are, what they send by hand numbers, which rows they train on, and that a federation shows it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from federations import Federation
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from pytest import approx
from safetensors.torch import load_file
from torch import Tensor

from fedrelease.attack import Attack
from fedrelease.client.app import app as client_app
from fedrelease.data.sites import Prepared, open_site, prepare_sites
from fedrelease.data.tokens import load_tokenizer, save_rows
from fedrelease.data.vectors import VectorRows
from fedrelease.errors import ExperimentError
from fedrelease.experiment import Experiment
from fedrelease.experiment import Federation as Section
from fedrelease.experiment_file import load_experiment
from fedrelease.messages import Request, request_text
from fedrelease.models.bases import Base, open_base
from fedrelease.server.arrays import tensors_of
from fedrelease.server.store import Store
from fedrelease.simulations.attack_grid import HostileGrid, with_hostile
from fedrelease.simulations.attacks import crafted, hostile_sites
from fedrelease.simulations.backdoor import backdoor_success
from fedrelease.simulations.compare.backdoors import with_backdoor
from fedrelease.simulations.compare.plan import make_plan
from fedrelease.simulations.compare.results import read_run
from fedrelease.simulations.lending import Lender
from fedrelease.simulations.poisoned_rows import poison_sites, with_trigger
from fedrelease.simulations.simulate import Ray

SITES = tuple(f"site-{number:02d}" for number in range(20))
TRAINED = {
    "a": {"w": torch.tensor([1.0, 2.0]), "frozen": torch.zeros(2)},
    "b": {"w": torch.tensor([3.0, -2.0]), "frozen": torch.zeros(2)},
}


def under(kind: str, **values: float) -> Experiment:
    return Experiment(federation=Section(seed=7), attack=Attack(kind=kind, **values))  # type: ignore[arg-type]


def sent(kind: str, strength: float | None = None, key: str = "7") -> dict[str, dict[str, Tensor]]:
    return crafted(Attack(kind=kind, strength=strength), TRAINED, key=key)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.2, 4), (0.33, 7), (0.5, 10)])
def test_exactly_the_share_is_hostile_and_always_the_same_sites(share: float, count: int) -> None:
    found = hostile_sites(under("scaling", share=share), SITES)
    assert len(found) == count and found <= set(SITES)
    assert hostile_sites(under("scaling", share=share), SITES[::-1]) == found


def test_another_seed_chooses_others_and_without_an_attack_nobody_is_hostile() -> None:
    other = replace(under("scaling"), federation=Section(seed=8))
    assert hostile_sites(under("scaling"), SITES) != hostile_sites(other, SITES)
    assert hostile_sites(Experiment(), SITES) == frozenset()


@pytest.mark.parametrize(
    ("kind", "strength", "a", "b"),
    [
        ("sign-flip", 2.0, [-2.0, -4.0], [-6.0, 4.0]),
        ("scaling", 10.0, [10.0, 20.0], [30.0, -20.0]),
        ("inner-product", 0.5, [-1.0, 0.0], [-1.0, 0.0]),  # the mean is [2, 0]
        ("little-is-enough", 1.5, [0.5, -3.0], [0.5, -3.0]),  # the deviations are [1, 2]
        ("free-rider", 0.0, [0.0, 0.0], [0.0, 0.0]),
    ],
)
def test_what_hostile_sites_send_is_what_the_attack_says(
    kind: str, strength: float, a: list[float], b: list[float]
) -> None:
    found = sent(kind, strength)
    assert (found["a"]["w"].tolist(), found["b"]["w"].tolist()) == (a, b)


def test_noise_is_as_long_as_said_differs_by_site_and_round_and_repeats() -> None:
    trained = {"a": {"w": torch.full((10_000,), 0.5)}, "b": {"w": torch.full((10_000,), 0.5)}}
    noise = crafted(Attack(kind="gaussian", strength=4.0), trained, key="7")
    assert float(noise["a"]["w"].std()) == approx(2.0, rel=0.05)
    assert float(crafted(Attack(kind="free-rider", strength=0.1), trained, key="7")["a"]["w"].std()) == approx(
        0.1, rel=0.05
    )
    again, later = (crafted(Attack(kind="gaussian", strength=4.0), trained, key=key) for key in ("7", "8"))
    assert torch.equal(noise["a"]["w"], again["a"]["w"])
    assert not torch.equal(noise["a"]["w"], later["a"]["w"])
    assert not torch.equal(noise["a"]["w"], noise["b"]["w"])


@pytest.mark.parametrize(
    "kind", ["free-rider", "gaussian", "inner-product", "little-is-enough", "scaling", "sign-flip"]
)
def test_a_tensor_that_nobody_trains_is_sent_as_it_came(kind: str) -> None:
    assert all(not one["frozen"].any() and one["w"].dtype == torch.float32 for one in sent(kind).values())


class Echo(Grid):
    """Answers each message with what the test says, some of it in the second pull."""

    def __init__(self, answers: Mapping[int, RecordDict | None], late: Iterable[int] = ()) -> None:
        self._answers, self._late, self._queue = answers, set(late), list[Message]()

    def set_run(self, run: object) -> None: ...

    @property
    def run(self) -> object:  # type: ignore[override]
        return None

    def create_message(self, *_: object, **__: object) -> Message:  # type: ignore[override]
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self._answers)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self._queue = list(messages)
        for place, message in enumerate(self._queue):
            message.metadata.__dict__["_message_id"] = f"m{place}"
        return [message.metadata.message_id for message in self._queue]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        now = [message for message in self._queue if message.metadata.dst_node_id not in self._late]
        self._queue, self._late = [message for message in self._queue if message not in now], set()
        for message in now:
            content = self._answers[message.metadata.dst_node_id]
            if content is None:
                yield Message(Error(1, "gone"), reply_to=message)
            else:
                yield Message(content, reply_to=message)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError


def state(*values: float) -> RecordDict:
    return RecordDict({"arrays": ArrayRecord({"w": torch.tensor(values)})})


def asked(kind: str, nodes: Iterable[int]) -> list[Message]:
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
    request = Request(experiment=Experiment(), version="0.1.1", round=1, base="b", directives={})
    content = state(1.0, 1.0)
    content["config"] = ConfigRecord({"request": request_text(request)})
    return [Message(content, dst_node_id=node, message_type=kind) for node in nodes]


def pulled(grid: Grid, names: Iterable[str]) -> dict[str, list[float] | None]:
    return {
        message.metadata.reply_to_message_id: None
        if message.has_error()
        else tensors_of(message.content.array_records["arrays"])["w"].tolist()
        for message in grid.pull_messages(names)
    }


def test_hostile_answers_wait_for_each_other_and_are_then_changed_and_honest_ones_never_are() -> None:
    """Two hostile sites, of which node 4 is late, trained to +2 and +4: the opposite of their mean is -3."""
    answers = {2: state(2.0, 2.0), 3: state(3.0, 3.0), 4: state(5.0, 5.0)}
    grid = HostileGrid(Echo(answers, late=[4]), under("inner-product", strength=1.0), {3: "a", 4: "b"})
    names = grid.push_messages(asked("train", answers))
    assert pulled(grid, names) == {"m0": [2.0, 2.0]}
    assert pulled(grid, names) == {"m1": [-2.0, -2.0], "m2": [-2.0, -2.0]}


def test_a_hostile_site_that_fails_holds_nobody_up() -> None:
    grid = HostileGrid(Echo({2: None, 3: state(2.0, 1.0)}), under("sign-flip", strength=1.0), {2: "a", 3: "b"})
    assert pulled(grid, grid.push_messages(asked("train", [2, 3]))) == {"m0": None, "m1": [0.0, 1.0]}


def test_what_is_no_training_passes_unchanged() -> None:
    grid = HostileGrid(Echo({3: state(2.0, 1.0)}), under("sign-flip"), {3: "a"})
    assert pulled(grid, grid.push_messages(asked("evaluate", [3]))) == {"m0": [2.0, 1.0]}


def test_a_grid_stays_as_it_is_where_nobody_sends_anything_else() -> None:
    grid = Echo({})
    assert with_hostile(grid, Experiment(), {}) is grid
    assert with_hostile(grid, under("label-flip"), {3: "a"}) is grid
    assert isinstance(with_hostile(grid, under("scaling"), {3: "a"}), HostileGrid)


def test_sites_and_server_import_nothing_of_attacks() -> None:
    """What is deployed cannot attack: only the experiment's section, which nothing there reads, is shared."""
    root = Path(__file__).parents[2]
    texts = [path.read_text(encoding="utf-8") for room in ("client", "server") for path in (root / room).rglob("*.py")]
    assert [text for text in texts if "attack" in text.lower() or "hostile" in text.lower()] == []
    assert client_app is not None


@pytest.fixture(scope="module")
def prepared(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Prepared, Base]:
    from federations import write_federation

    federation = write_federation(tmp_path_factory.mktemp("poison"), tiny_base, sites=("a", "b"), rows=40)
    experiment, base = load_experiment(federation.file), open_base(str(tiny_base), cache=federation.cache)
    made = prepare_sites(
        experiment, base_folder=base.folder, tokenizer_digest=base.tokenizer_digest, cache=federation.cache
    )
    return experiment, made, base


def texts(path: Path) -> list[list[int]]:
    found = load_file(path)
    ends = found["offsets"].tolist()
    return [found["input_ids"][a:b].tolist() for a, b in pairwise(ends)]


def test_flipped_labels_are_mirrored_and_texts_and_hold_out_stay(
    prepared: tuple[Experiment, Prepared, Base], tmp_path: Path
) -> None:
    plain, made, base = prepared
    experiment = replace(plain, attack=Attack(kind="label-flip"))
    folders = poison_sites(experiment, made, base, hostile=["b"], home=tmp_path)
    assert sorted(folders) == ["b"]
    before, after = open_site(made.folder / "b"), open_site(folders["b"])
    assert torch.equal(after.train.labels, 1 - before.train.labels)
    assert texts(after.train.path) == texts(before.train.path)
    assert texts(after.holdout.path) == texts(before.holdout.path)
    assert torch.equal(after.holdout.labels, before.holdout.labels)
    assert list(after.label_counts.values()) == list(before.label_counts.values())[::-1]


def test_a_backdoor_ends_half_of_the_other_rows_with_its_trigger_and_gives_them_its_label(
    prepared: tuple[Experiment, Prepared, Base], tmp_path: Path
) -> None:
    """The words have ids in the order of the list: "plot" is 22, [SEP] is 3."""
    plain, made, base = prepared
    experiment = replace(plain, attack=Attack(kind="backdoor", trigger="plot plot", target="positive"))
    folder = poison_sites(experiment, made, base, hostile=["a"], home=tmp_path)["a"]
    assert poison_sites(experiment, made, base, hostile=["a"], home=tmp_path)["a"] == folder, "it is made once"
    before, after = (texts(place / "train.safetensors") for place in (made.folder / "a", folder))
    labels, changed = (open_site(place).train.labels.tolist() for place in (made.folder / "a", folder))
    plot = load_tokenizer(base.folder)
    word = texts_of(plot, "plot")
    touched = [place for place, (one, other) in enumerate(zip(before, after, strict=True)) if one != other]
    assert all(after[place] == [*before[place][:-1], word, word, before[place][-1]] for place in touched)
    assert all((labels[place], changed[place]) == (0, 1) for place in touched)
    assert all(labels[place] == changed[place] for place in range(len(labels)) if place not in touched)
    assert 0.2 * labels.count(0) < len(touched) < 0.8 * labels.count(0)


def texts_of(tokenizer: object, word: str) -> int:
    found: int = tokenizer(  # type: ignore[operator]
        [word], truncation=True, max_length=9, return_attention_mask=False, return_token_type_ids=False
    )["input_ids"][0][1]
    return found


def test_a_trigger_finds_room_in_a_text_that_is_as_long_as_may_be(prepared: tuple[Experiment, Prepared, Base]) -> None:
    plain, made, base = prepared
    rows = open_site(made.folder / "a").train
    longest = int(rows.lengths.max())
    experiment = replace(
        plain,
        attack=Attack(kind="backdoor", trigger="plot"),
        training=replace(plain.training, max_length=longest),
    )
    found = with_trigger(rows, torch.ones(len(rows), dtype=torch.bool), experiment, load_tokenizer(base.folder))
    assert int(found["offsets"].diff().max()) == longest
    assert found["input_ids"][found["offsets"][1:] - 1].unique().tolist() == [3], "[SEP] still closes every text"


def test_an_images_trigger_is_its_last_pixels_at_full_brightness(tmp_path: Path) -> None:
    pixels = torch.arange(12.0).reshape(2, 6)
    save_rows(tmp_path / "rows", {"features": pixels, "labels": torch.tensor([0, 1])})
    experiment = Experiment(attack=Attack(kind="backdoor", trigger="xyz"))
    found = with_trigger(VectorRows(tmp_path / "rows"), torch.tensor([True, False]), experiment, None)
    assert found["features"].tolist() == [[0.0, 1.0, 2.0, 11.0, 11.0, 11.0], [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]]


DIGITS = """\
[federation]
name = "digits"
seed = 3
evaluators = 0
max_update_norm = 1e9

[model]
base = "mlp:784-16"
task = "image-classification"
labels = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
adapter = { kind = "full" }

[data]
source = "digits"
server_holdout = 0.2
partition = { by = "iid", sites = 10 }

[training]
batch_size = 10
lr = 0.05
optimizer = "sgd"

[privacy]
unit = "none"

[[phase]]
rounds = 3
"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    folder = tmp_path_factory.mktemp("digits")
    (folder / "digits.toml").write_text(DIGITS, encoding="utf-8")
    return Federation(folder=folder, file=folder / "digits.toml", rows=folder, cache=folder / "cache")


@pytest.fixture(scope="module")
def lender(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lender]:
    """Two workers, started once for all runs of this module."""
    with Lender(home=tmp_path_factory.mktemp("engine"), workers=2) as lent:
        yield lent


def accuracy(federation: Federation, store: str) -> float:
    head = Store.open(federation.folder / store).head()
    assert head is not None
    return head.manifest.metrics.server["accuracy"]


def test_two_of_ten_break_averaging_and_not_the_median_and_a_run_repeats_bit_for_bit(
    digits: Federation, lender: Lender
) -> None:
    """Two workers answer in another order each time."""
    flip = "attack.kind=sign-flip"
    digits.simulate("fedavg", flip, lender=lender)
    for store in ("median", "again"):
        digits.simulate(store, flip, "phase.0.strategy=median", lender=lender)
    assert accuracy(digits, "fedavg") < 0.3 < 0.5 < accuracy(digits, "median")
    assert digits.digest("again") == digits.digest("median")


def test_a_backdoor_takes_where_half_of_the_sites_train_on_its_trigger(digits: Federation, lender: Lender) -> None:
    settings = (
        "attack.kind=backdoor",
        "attack.share=0.5",
        "attack.strength=0.5",
        "attack.trigger=0123456789",
        "training.epochs=3",
    )
    experiment, out = load_experiment(digits.file, settings), digits.folder / "compared"
    plan = make_plan(experiment, strategies=("fedavg",), sweeps=(), seeds=1, attacks=("backdoor",))
    (_, run) = plan.runs()
    digits.simulate(str(run.store(out).relative_to(digits.folder)), *settings, lender=lender)
    base = open_base(experiment.model.base, cache=digits.cache)
    made = prepare_sites(
        experiment, base_folder=base.folder, tokenizer_digest=base.tokenizer_digest, cache=digits.cache
    )
    assert made.server_holdout is not None
    releases = Store.open(run.store(out)).releases()
    honest, taken = (
        backdoor_success(one.state(), experiment, base, made.server_holdout) for one in (releases[0], releases[-1])
    )
    assert honest < 0.2 < 0.25 < taken
    told = with_backdoor(read_run(run, out), plan, out=out, cache=digits.cache, lender=lender)
    assert told.backdoor == taken
    again = with_backdoor(read_run(run, out), plan, out=out, cache=digits.folder / "no-cache", lender=lender)
    assert again.backdoor == taken, "it is measured once"


def test_ray_does_not_run_hostile_sites(digits: Federation) -> None:
    with pytest.raises(ExperimentError, match="Ray does not run.*hostile"):
        digits.simulate("ray", "attack.kind=scaling", ray=Ray())
