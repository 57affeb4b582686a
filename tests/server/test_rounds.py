"""The round with sites that answer in this process: order, quorum, refusals, resuming."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_sites import START, FakeSites, make_experiment, make_setting, moved, run
from torch import Tensor

from fedrelease.errors import ExperimentError, RoundFailed, StoreError
from fedrelease.experiment import Adapter, Experiment, Federation, Model, Phase, StrategyChoice
from fedrelease.factors import truncated
from fedrelease.messages import Answer
from fedrelease.server.events import Event, Opened, Released, RoundStarted, SiteAnswered, Watcher
from fedrelease.server.rounds import run_rounds
from fedrelease.server.sites import Reply
from fedrelease.server.spool import Spool
from fedrelease.server.store import Store
from fedrelease.server.verify import verify
from fedrelease.strategies import Strategy
from fedrelease.update import State, Update


class Stopped(Exception):
    """Stands in for a crash."""


def refusing(reply: Reply) -> Reply:
    return Reply(site=reply.site, refused="BudgetExceeded: no room")


def with_nan(reply: Reply) -> Reply:
    return replace(reply, arrays={**reply.arrays, "head.bias": torch.full((2,), torch.nan)})


def unmoved(reply: Reply) -> Reply:
    return replace(reply, arrays=START)


def test_a_plan_ends_with_the_base_and_one_release_a_round_each_the_parent_of_the_next(tmp_path: Path) -> None:
    setting = make_setting(tmp_path / "s", FakeSites("abc"))
    run(setting)
    releases = setting.store.releases()
    assert [release.version for release in releases] == ["0.0.0", "0.1.1", "0.1.2"]
    assert [release.manifest.parents for release in releases] == [(), (releases[0].digest,), (releases[1].digest,)]
    assert setting.store.channels().channels["stable"].version == "0.1.2"
    assert verify(setting.store).ok


def test_the_release_is_the_parent_plus_the_mean_of_the_deltas(tmp_path: Path) -> None:
    setting = make_setting(tmp_path / "s", FakeSites("ab"), experiment=make_experiment(rounds=1))
    run(setting)
    expected = (moved("a", "0.1.1", START)["head.bias"] + moved("b", "0.1.1", START)["head.bias"]) / 2
    assert torch.allclose(setting.store.find("0.1.1").state()["head.bias"], expected)


def test_the_order_of_answers_changes_no_bit_of_a_release(tmp_path: Path) -> None:
    names = [f"site-{number}" for number in range(12)]
    digests = {run(make_setting(tmp_path / str(seed), FakeSites(names, seed=seed))) for seed in range(6)}
    assert len(digests) == 1


def test_adding_up_in_another_order_would_change_the_sum() -> None:
    """So that the test above can fail."""
    parts = [moved(f"site-{number}", "0.1.1", START)["layer.lora_A"] for number in range(12)]
    assert not torch.equal(sum(parts, torch.zeros(2, 3)), sum(reversed(parts), torch.zeros(2, 3)))


def test_another_seed_or_another_answer_is_another_release(tmp_path: Path) -> None:
    first = run(make_setting(tmp_path / "1", FakeSites("ab")))
    other = replace(make_experiment(), federation=Federation(seed=8))
    assert run(make_setting(tmp_path / "2", FakeSites("ab"), experiment=other)) != first
    assert run(make_setting(tmp_path / "3", FakeSites("ab", spoil={"a": unmoved}))) != first


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (refusing, "no room"),
        (with_nan, "not finite"),
        (lambda reply: replace(reply, arrays={}), "is missing"),
        (lambda reply: replace(reply, arrays={**reply.arrays, "x": torch.zeros(1)}), "unknown tensor"),
        (lambda reply: replace(reply, arrays={**reply.arrays, "head.bias": torch.zeros(9)}), "another shape"),
        (lambda reply: replace(reply, arrays={**reply.arrays, "head.bias": torch.zeros(2).half()}), "another dtype"),
        (lambda reply: replace(reply, arrays={**reply.arrays, "head.bias": torch.full((2,), 1e9)}), "too large"),
        (lambda reply: replace(reply, answer=None), "no answer"),
        (lambda reply: replace(reply, answer=replace(reply.answer, site="b")), "another site"),
    ],
    ids=["budget", "nan", "names", "extra", "shape", "dtype", "norm", "silent", "forged"],
)
def test_a_site_that_is_refused_is_named_with_its_reason_and_the_others_make_the_round(
    tmp_path: Path, spoil: Callable[[Reply], Reply], reason: str
) -> None:
    sites = FakeSites("abc", spoil={"a": spoil})
    setting = make_setting(tmp_path / "s", sites, experiment=make_experiment(rounds=1))
    run(setting)
    federation = setting.store.find("0.1.1").manifest.federation
    assert [accepted.site for accepted in federation.accepted] == ["b", "c"]
    assert [refused.site for refused in federation.refused] == ["a"]
    assert reason in federation.refused[0].reason


@pytest.mark.parametrize("spoil", ["missing", "weak"])
def test_with_privacy_a_missing_or_weak_receipt_is_refused(tmp_path: Path, spoil: str) -> None:
    def without(reply: Reply) -> Reply:
        assert reply.answer is not None and reply.answer.receipt is not None
        weak = None if spoil == "missing" else replace(reply.answer.receipt, clip=9.0)
        return replace(reply, answer=replace(reply.answer, receipt=weak))

    sites = FakeSites("ab", private=True, spoil={"a": without})
    setting = make_setting(tmp_path / "s", sites, experiment=make_experiment(rounds=1, unit="example"))
    run(setting)
    manifest = setting.store.find("0.1.1").manifest
    assert [refused.site for refused in manifest.federation.refused] == ["a"]
    assert manifest.privacy is not None
    assert [(told.site, told.pool) for told in manifest.privacy.sites] == [
        ("a", "holdout"),
        ("b", "holdout"),
        ("b", "train"),
    ]


def test_a_site_that_did_not_move_counts(tmp_path: Path) -> None:
    setting = make_setting(tmp_path / "s", FakeSites("a", spoil={"a": unmoved}), experiment=make_experiment(rounds=1))
    run(setting)
    assert len(setting.store.find("0.1.1").manifest.federation.accepted) == 1
    assert torch.equal(setting.store.find("0.1.1").state()["layer.lora_A"], START["layer.lora_A"])


@pytest.mark.parametrize(("quorum", "refused", "holds"), [(0.5, "ab", True), (0.5, "abc", False), (1.0, "a", False)])
def test_a_round_needs_its_quorum_of_the_cohort(tmp_path: Path, quorum: float, refused: str, holds: bool) -> None:
    sites = FakeSites("abcd", spoil=dict.fromkeys(refused, refusing))
    setting = make_setting(tmp_path / "s", sites, experiment=make_experiment(rounds=1, quorum=quorum))
    if holds:
        run(setting)
        return
    with pytest.raises(RoundFailed, match=f"{4 - len(refused)} of 4 sites answered") as caught:
        run(setting)
    assert "a: BudgetExceeded: no room" in str(caught.value.value)


def test_a_failed_round_leaves_its_log_line_and_running_again_asks_only_who_is_missing(tmp_path: Path) -> None:
    sites = FakeSites("abcd", spoil=dict.fromkeys("abc", refusing))
    setting = make_setting(tmp_path / "s", sites)
    before = _after_the_base(tmp_path / "base")
    with pytest.raises(RoundFailed):
        run(setting)
    assert [(entry.event, entry.version) for entry in setting.store.history()][1:] == [("round-failed", "0.1.1")]
    assert "a: BudgetExceeded: no room" in (setting.store.history()[-1].reason or "")
    assert {path.name for path in (tmp_path / "s" / "blobs/sha256").iterdir()} == before
    sites.spoil.clear()
    sites.asked.clear()
    digest = run(setting)
    assert sites.trained("0.1.1") == ["a", "b", "c"]
    assert digest == run(make_setting(tmp_path / "never failed", FakeSites("abcd")))


def _after_the_base(folder: Path) -> set[str]:
    """The blobs of a store that has only its base."""

    def stop(event: Event) -> None:
        if isinstance(event, Released):
            raise Stopped

    with pytest.raises(Stopped):
        run(make_setting(folder, FakeSites("abcd"), watch=stop))
    return {path.name for path in (folder / "blobs/sha256").iterdir()}


class Overflowing(Strategy):
    """A strategy that went too far."""

    def directives(self, round: int) -> Mapping[str, float | str | bool]:
        return {}

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        return {name: value / 0.0 for name, value in parent.items()}, {}


def test_an_aggregate_that_is_not_finite_fails_the_round_and_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedrelease.server.rounds.make_strategy", lambda choice: Overflowing())
    setting = make_setting(tmp_path / "s", FakeSites("ab"))
    with pytest.raises(RoundFailed, match=r"aggregate of 0\.1\.1 is not finite"):
        run(setting)
    assert (setting.store.history()[-1].event, setting.store.history()[-1].version) == ("round-failed", "0.1.1")
    assert len(setting.store.releases()) == 1


def test_a_round_that_its_strategy_refuses_is_logged(tmp_path: Path) -> None:
    by_examples = StrategyChoice(name="fedavg", knobs={"weighting": "examples"})
    experiment = make_experiment(rounds=1)
    experiment = replace(experiment, phases=(replace(experiment.phases[0], strategy=by_examples),))
    secret = FakeSites("a", spoil={"a": lambda reply: replace(reply, answer=Answer(site="a", metrics={}))})
    setting = make_setting(tmp_path / "s", secret, experiment=experiment)
    with pytest.raises(RoundFailed, match="keeps its number of examples private"):
        run(setting)
    assert setting.store.history()[-1].event == "round-failed"


def test_a_strategy_that_needs_private_losses_is_refused_with_privacy_before_anybody_is_asked(tmp_path: Path) -> None:
    experiment = make_experiment(rounds=1, unit="example")
    fair = replace(experiment.phases[0], strategy=StrategyChoice(name="qfedavg"))
    experiment = replace(experiment, phases=(fair,))
    setting = make_setting(tmp_path / "s", FakeSites("ab"), experiment=experiment)
    with pytest.raises(ExperimentError, match="qfedavg asks every site to tell its loss"):
        run(setting)
    assert setting.store.releases() == ()


def test_with_very_many_refusals_the_message_shows_some_and_counts_the_rest(tmp_path: Path) -> None:
    names = [f"site-{number:02d}" for number in range(40)]
    with pytest.raises(RoundFailed, match="site-11: BudgetExceeded: no room; and 28 more") as caught:
        run(make_setting(tmp_path / "s", FakeSites(names, spoil=dict.fromkeys(names, refusing))))
    assert "site-12" not in str(caught.value)


def _stop_after(step: str, count: int, events: list[Event]) -> Watcher:
    def watch(event: Event) -> None:
        events.append(event)
        answered = [e for e in events if isinstance(e, SiteAnswered) and (e.step, e.version) == (step, "0.1.1")]
        if len(answered) == count:
            raise Stopped

    return watch


@pytest.mark.parametrize(
    ("step", "count", "missing"), [("train", 1, 3), ("train", 3, 1), ("train", 4, 0), ("evaluate", 2, 0)]
)
def test_updates_in_the_spool_are_not_asked_for_again_and_the_digest_is_that_of_a_run_never_stopped(
    tmp_path: Path, step: str, count: int, missing: int
) -> None:
    sites, events = FakeSites("abcd", seed=3), list[Event]()
    with pytest.raises(Stopped):
        run(make_setting(tmp_path / "s", sites, watch=_stop_after(step, count, events)))  # type: ignore[arg-type]
    sites.asked.clear()
    events.clear()
    digest = run(make_setting(tmp_path / "s", sites, watch=events.append))
    assert len(sites.trained("0.1.1")) == missing
    started = next(event for event in events if isinstance(event, RoundStarted))
    assert len(started.spooled) == 4 - missing
    assert next(event for event in events if isinstance(event, Opened)).resumed
    assert digest == run(make_setting(tmp_path / "never", FakeSites("abcd")))
    assert not list((tmp_path / "s" / "spool").glob("*"))


@pytest.mark.parametrize("harm", ["torn", "altered", "another parent"])
def test_a_spooled_update_that_is_not_sound_is_asked_for_again(tmp_path: Path, harm: str) -> None:
    sites, events = FakeSites("ab"), list[Event]()
    with pytest.raises(Stopped):
        run(make_setting(tmp_path / "s", sites, watch=_stop_after("train", 2, events)))  # type: ignore[arg-type]
    file = tmp_path / "s" / "spool" / "0.1.1" / ("a.json" if harm == "another parent" else "a.safetensors")
    whole = file.read_bytes()
    parent = events_parent(Store.open(tmp_path / "s")).encode()
    harmed = {"torn": whole[:-3], "altered": whole[:-1] + b"x", "another parent": whole.replace(parent, b"f" * 64)}
    assert harmed[harm] != whole
    file.write_bytes(harmed[harm])
    sites.asked.clear()
    digest = run(make_setting(tmp_path / "s", sites))
    assert sites.trained("0.1.1") == ["a"]
    assert digest == run(make_setting(tmp_path / "never", FakeSites("ab")))


def events_parent(store: Store) -> str:
    head = store.head()
    assert head is not None
    return head.digest.removeprefix("sha256:")


def test_a_spooled_site_outside_the_cohort_does_not_count(tmp_path: Path) -> None:
    events: list[Event] = []
    with pytest.raises(Stopped):
        run(make_setting(tmp_path / "s", FakeSites("abc"), watch=_stop_after("train", 3, events)))
    setting = make_setting(tmp_path / "s", FakeSites("ab"), experiment=make_experiment(rounds=1))
    run(setting)
    assert [accepted.site for accepted in setting.store.find("0.1.1").manifest.federation.accepted] == ["a", "b"]


def test_a_finished_plan_asks_nobody(tmp_path: Path) -> None:
    digest = run(make_setting(tmp_path / "s", FakeSites("ab")))
    idle = FakeSites("ab")
    assert run(make_setting(tmp_path / "s", idle)) == digest
    assert idle.asked == []


@pytest.mark.parametrize("keep", [True, False])
def test_updates_are_kept_after_their_round_only_when_asked_for(tmp_path: Path, keep: bool) -> None:
    run(make_setting(tmp_path / "s", FakeSites("ab"), experiment=make_experiment(keep=keep)))
    kept = sorted(
        path.relative_to(tmp_path / "s" / "spool").as_posix() for path in (tmp_path / "s").glob("spool/*/*.json")
    )
    assert kept == (["0.1.1/a.json", "0.1.1/b.json", "0.1.2/a.json", "0.1.2/b.json"] if keep else [])


def test_rounds_need_the_lock(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not locked"):
        run_rounds(make_setting(tmp_path / "s", FakeSites("ab")))


MEASURE = """
import os, resource, sys, tracemalloc
os.fsync = lambda handle: None
sys.path[:0] = sys.argv[3:]
import torch
from pathlib import Path
from fake_sites import FakeSites, make_experiment, make_setting, run
count = int(sys.argv[2])
start = {"big": torch.zeros(8, 32_768)}
plan = make_experiment(rounds=1)
sites = FakeSites([f"site-{number}" for number in range(count)])
setting = make_setting(Path(sys.argv[1]), sites, experiment=plan, start=start)
run(make_setting(Path(sys.argv[1] + ".warm"), FakeSites("ab"), experiment=plan, start=start))
tracemalloc.start()
run(setting)
print(tracemalloc.get_traced_memory()[1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def _peaks(folder: Path, sites: int) -> tuple[float, float]:
    """Peak of Python's own memory and of the whole process, in MB, in a round with so many updates of 1 MB."""
    here = Path(__file__).parent
    arguments = [sys.executable, "-c", MEASURE, str(folder / str(sites)), str(sites), str(here), str(here.parent)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    out = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment).stdout.split()
    return float(out[0]) / 1e6, float(out[1]) / (1e3 if sys.platform == "linux" else 1e6)


def test_the_memory_of_a_round_does_not_grow_with_the_number_of_sites(tmp_path: Path) -> None:
    few, many = _peaks(tmp_path, 50), _peaks(tmp_path, 500)
    assert many[0] - few[0] < 10, f"Python's peak grew from {few[0]:.0f} to {many[0]:.0f} MB for 450 MB of updates more"
    assert many[1] - few[1] < 40, f"the process grew from {few[1]:.0f} to {many[1]:.0f} MB for 450 MB of updates more"


def test_a_plan_that_cannot_be_carried_out_costs_no_site_a_question(tmp_path: Path) -> None:
    experiment = make_experiment()
    late = replace(experiment.phases[0], name="broad", sites_per_round=3)
    sites = FakeSites("ab")
    setting = make_setting(tmp_path / "s", sites, experiment=replace(experiment, phases=(*experiment.phases, late)))
    with pytest.raises(ExperimentError, match="phase broad wants more sites than there are"):
        run(setting)
    assert sites.asked == []
    assert setting.store.releases() == ()


FACTORS: Mapping[str, Tensor] = {
    "head.bias": torch.zeros(2),
    "q.lora_A": torch.arange(20.0).reshape(4, 5) / 10,
    "q.lora_B": torch.zeros(5, 4),
}


def of_rank(rank: int) -> Callable[[Reply], Reply]:
    return lambda reply: replace(reply, arrays=truncated(reply.arrays, rank))


def ranked(strategy: str, ranks: Mapping[str, int]) -> Experiment:
    plain = make_experiment(rounds=1, keep=True)
    phases = (Phase(name="pilot", rounds=1, strategy=StrategyChoice(name=strategy)),)
    return replace(plain, model=Model(adapter=Adapter(rank=4, site_ranks=ranks)), phases=phases)


@pytest.mark.parametrize("strategy", ["fedavg", "fedit", "flexlora"])
def test_a_release_tells_by_layer_how_far_it_is_from_the_mean_of_products(tmp_path: Path, strategy: str) -> None:
    setting = make_setting(tmp_path / "s", FakeSites("abc"), experiment=ranked(strategy, {}), start=FACTORS)
    run(setting)
    release = setting.store.find("0.1.1")
    ended = [moved(site, "0.1.1", FACTORS) for site in "abc"]
    mean = sum((one["q.lora_B"].double() @ one["q.lora_A"].double() / 3 for one in ended), torch.zeros(()))
    product = release.state()["q.lora_B"].double() @ release.state()["q.lora_A"].double()
    expected = float((mean - product).norm() / mean.norm())
    told = json.loads(release.read("residual.json"))
    assert told.keys() == {"q"} and abs(float(told["q"]) - expected) < 2e-6
    assert release.manifest.metrics.server["lora_residual"] == float(told["q"])
    assert verify(setting.store).ok


def test_where_every_layer_is_exact_there_is_no_residual_in_the_release(tmp_path: Path) -> None:
    """One site alone, and a base: no file and no metric, so that the bytes of such releases stay what they were."""
    setting = make_setting(tmp_path / "s", FakeSites("a"), experiment=ranked("fedavg", {}), start=FACTORS)
    run(setting)
    for release in setting.store.releases():
        assert "residual.json" not in [file.path for file in release.manifest.files]
        assert "lora_residual" not in release.manifest.metrics.server


def test_sites_of_several_ranks_that_answer_together_make_one_round(tmp_path: Path) -> None:
    """Updates that arrived together lie in one file only where they have the same shapes."""
    sites = FakeSites("abcd", spoil={"a": of_rank(1), "b": of_rank(2), "c": of_rank(1)})
    one_by_one = sites.train
    sites.train = lambda *given: together(one_by_one(*given))  # type: ignore[method-assign]
    setting = make_setting(
        tmp_path / "s", sites, experiment=ranked("flexlora", {"a": 1, "b": 2, "c": 1}), start=FACTORS
    )
    run(setting)
    assert [one.site for one in setting.store.find("0.1.1").manifest.federation.accepted] == ["a", "b", "c", "d"]
    spool = Spool(setting.store.folder / "spool" / "0.1.1", parent=setting.store.find("0.0.0").digest)
    assert [len(one.tensors["q.lora_A"]) for one in spool.updates()] == [1, 2, 1, 4]
    assert len(list((setting.store.folder / "spool" / "0.1.1").glob("*.safetensors"))) == 3


def together(replies: Iterator[Reply]) -> Iterator[Reply]:
    found = list(replies)
    yield from (replace(reply, more=place < len(found)) for place, reply in enumerate(found, 1))


@pytest.mark.parametrize(
    ("strategy", "ranks", "said"),
    [
        ("fedavg", {"a": 2}, "fedavg needs every site to have the same rank.*fedit, flexlora, flora, hlora"),
        ("flexlora", {"amazom": 2}, "site_ranks names sites that are not there.*amazom.*a, b"),
    ],
)
def test_ranks_that_cannot_be_are_refused_before_anybody_is_asked(
    tmp_path: Path, strategy: str, ranks: Mapping[str, int], said: str
) -> None:
    sites = FakeSites("ab")
    with pytest.raises(ExperimentError, match=said):
        run(make_setting(tmp_path / "s", sites, experiment=ranked(strategy, ranks), start=FACTORS))
    assert sites.asked == []
