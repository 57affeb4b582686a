"""The benchmark's third side, the usual glue: what is told of it, when it is refused, and (slow) what it does."""

import json
from collections.abc import Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from test_bench import experiment  # of this folder

from fedrelease.client.directives import frozen
from fedrelease.client.training import Job, Seeds, train
from fedrelease.data.sites import open_site, prepare_sites
from fedrelease.errors import ExperimentError
from fedrelease.experiment import Experiment, Phase, Privacy, Training
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import build_classifier, load_state, trainable_state
from fedrelease.privacy import PrivacyPlan, plan_privacy
from fedrelease.simulations import ray_cluster
from fedrelease.simulations.bench import glue, glue_site
from fedrelease.simulations.bench.__main__ import main
from fedrelease.simulations.bench.measure import Bench, Pair, measure
from fedrelease.simulations.bench.picture import bench_png
from fedrelease.simulations.bench.report import document, show
from fedrelease.simulations.bench.runs import Run, check_fits
from fedrelease.update import State


def run(seconds: float, state: str, examples: int | None = None) -> Run:
    return Run(
        start_s=4.0,
        base_s=1.0,
        seconds=seconds,
        steps={"train": seconds - 1, "evaluate": 1.0},
        busy_s=seconds,
        peak_bytes=2_000_000_000,
        cpu_s=2 * seconds,
        examples=examples,
        state=state,
        losses=(),
    )


ACCURACY = {"ours": {"a": 0.75, "b": 0.5}, "glue": {"a": 0.5, "b": 0.5}}


def bench(*, private: bool = True) -> Bench:
    """Ours takes 10 s and the glue 25 s, then 30 s: 2.5 and 3 times as long."""
    pairs = tuple(
        Pair(
            ours=run(10.0, "same"),
            bare=run(9.0, "same") if private else None,
            glue=run(seconds, "other", examples=1200),
            accuracy=ACCURACY,
        )
        for seconds in (25.0, 30.0)
    )
    described = Experiment(privacy=Privacy(unit="example" if private else "none"))
    return Bench(experiment=described, sites=("a", "b"), workers=2, examples=1000, pairs=pairs)


def told(found: Bench) -> str:
    console = Console(width=200, markup=False, highlight=False, file=StringIO())
    with console.capture() as captured:
        show(found, console)
    return captured.get()


def test_the_summary_compares_the_glue_with_ours() -> None:
    found = json.loads(json.dumps(document(bench()), allow_nan=False))
    summary = found["summary"]
    assert summary["ratio"] == {"min": 2.5, "median": 2.75, "max": 3.0}
    assert summary["seconds"] == {"ours": 10.0, "bare": 9.0, "glue": 27.5}
    assert summary["cpu_s"] == {"ours": 20.0, "bare": 18.0, "glue": 55.0}
    assert summary["examples_per_s"] == pytest.approx(
        {"ours": 100, "bare": 1000 / 9, "glue": (1200 / 25 + 1200 / 30) / 2}
    )
    assert summary["accuracy"] == {"ours": 0.625, "glue": 0.5}
    assert [pair["accuracy"]["glue"]["a"] for pair in found["pairs"]] == [0.5, 0.5]


def test_the_glue_need_not_end_in_our_state() -> None:
    assert document(bench())["summary"]["equal_states"] is True  # type: ignore[index, call-overload]
    assert "last states of ours and bare: equal" in told(bench())


def test_a_reader_is_told_of_the_glue_after_the_overhead() -> None:
    first, second, *_ = told(bench()).splitlines()
    assert first.startswith("overhead 10.0% of wall time")
    assert second == "the usual glue takes 2.75 times as long as ours, 2.50 to 3.00 over 2 pairs"


def test_without_privacy_there_is_no_twin_and_no_overhead() -> None:
    text, summary = told(bench(private=False)), document(bench(private=False))["summary"]
    assert text.startswith("the usual glue takes 2.75 times as long")
    assert "twin" not in text and "bare" not in text
    assert isinstance(summary, Mapping) and not {"overhead", "idle"} & set(summary)


def test_the_picture_is_a_png_and_the_same_bytes_every_time() -> None:
    assert bench_png(bench()).startswith(b"\x89PNG")
    assert bench_png(bench()) == bench_png(bench())
    assert bench_png(bench(private=False)) != bench_png(bench())


def test_the_command_ends_with_one_when_ray_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(ray_cluster.importlib.util, "find_spec", lambda name: None)
    assert main(["--glue", "--json", "--out", str(tmp_path / "out")]) == 1
    assert "fedrelease[ray]" in json.loads(capsys.readouterr().err)["error"]["hint"]
    assert not (tmp_path / "out").exists()


def test_without_privacy_the_command_wants_the_glue(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--privacy", "none", "--out", str(tmp_path / "out")]) == 2
    assert "add --glue" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("other", "rule"),
    [
        (Experiment(phases=(Phase(), Phase(name="broad"))), "one phase"),
        (Experiment(phases=(Phase(sites_per_round=2),)), "every site in every round"),
        (Experiment(training=Training(epochs=1.5)), "whole passes"),
        (Experiment(training=Training(max_steps=3)), "no training.max_steps"),
        (Experiment(privacy=Privacy(metrics="withheld")), "sites that are looked at"),
    ],
)
def test_what_the_glue_would_do_otherwise_is_refused(other: Experiment, rule: str) -> None:
    with pytest.raises(ExperimentError, match=rule):
        check_fits(other)


def test_the_built_in_experiments_fit_the_glue() -> None:
    from fedrelease.simulations.bench.scaled import scaled

    for privacy in ("keep", "none"):
        check_fits(scaled(3, 100, privacy))


def trained_by_ours(
    described: Experiment, prepared: Path, base: Path, initial: State, plan: PrivacyPlan | None
) -> State:
    model = build_classifier(open_base(str(base), cache=base), described.model, seed=0)
    load_state(model, initial)
    rows = open_site(prepared / "a").train
    seeds = Seeds(key="00", noise="seeded")
    job = Job(rows=rows, training=described.training, plan=plan, start=1, steps=1, total=2, seeds=seeds)
    with frozen(model, "lora_A"):
        train(model, job)
    return trainable_state(model)


def trained_by_glue(settings: glue_site.Settings, initial: State) -> State:
    model = glue_site._Classifier(settings)
    shared = glue_site._shared(model)
    assert set(shared) == set(initial)
    for name, parameter in shared.items():
        parameter.data.copy_(initial[name])
    glue_site._fit(model, glue_site._rows(settings, "a.train.jsonl"), settings, "a", 2)
    return {name: parameter.detach() for name, parameter in shared.items()}


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.filterwarnings("ignore::UserWarning:opacus", "ignore:Full backward hook", "ignore::FutureWarning")
def test_a_step_on_all_rows_is_the_same_step_on_both_sides(private: bool, tiny_base: Path, tmp_path: Path) -> None:
    """One batch holds every row and there is no noise, so nothing is left to chance: gradients, clipping and rates agree."""
    described = experiment(
        tiny_base,
        tmp_path,
        privacy="clip = 0.05" if private else 'unit = "none"',
        training='optimizer = "sgd"\nhead_lr = 0.3\nschedule = "linear"\nmicro_batch = 7',
        phase='strategy = "ffa-lora"',
    )
    described = replace(described, training=replace(described.training, batch_size=100))
    cache, base = tmp_path / "cache", open_base(str(tiny_base), cache=tmp_path)
    initial = glue._prepare(described, tmp_path / "glue", cache)
    numbers = torch.Generator().manual_seed(1)  # a head of zeros would hand no gradient down
    initial = {name: tensor + 0.1 * torch.randn(tensor.shape, generator=numbers) for name, tensor in initial.items()}
    digest = base.tokenizer_digest
    prepared = prepare_sites(described, base_folder=tiny_base, tokenizer_digest=digest, cache=cache).folder
    rows = len(open_site(prepared / "a").train)
    settings = replace(glue_site.settings_of(tmp_path / "glue"), noise={"a": 0.0} if private else {})
    planned = plan_privacy(
        described.privacy, rows=rows, batch_size=100, steps_per_round=1, rounds=2, calibrated=lambda **asked: 0.0
    )
    ours = trained_by_ours(described, prepared, tiny_base, initial, planned)
    theirs = trained_by_glue(settings, initial)
    for name, tensor in initial.items():
        moved = (ours[name] - tensor).norm()
        assert (moved > 0) == (not name.endswith("lora_A")), name
        assert (ours[name] - theirs[name]).norm() <= 0.02 * moved, name


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["example", "none"])
def test_the_glue_runs_the_same_federation_on_ray(unit: str, tiny_base: Path, tmp_path: Path) -> None:
    """Ray's start alone takes half a minute."""
    pytest.importorskip("ray")
    described = experiment(tiny_base, tmp_path, privacy=f'unit = "{unit}"\nepsilon = 50.0\naccountant = "rdp"')
    found = measure(
        replace(described, training=replace(described.training, batch_size=24)),
        repeats=1,
        workers=2,
        folder=tmp_path / "out",
        cache=tmp_path / "cache",
        say=lambda line: None,
        warm_up=False,
        glue=True,
    )
    glue, private = found.pairs[0].glue, unit != "none"
    assert glue is not None and (found.pairs[0].bare is not None) == private
    assert min(glue.start_s, glue.seconds, glue.steps["train"], glue.steps["evaluate"], glue.cpu_s) > 0
    assert sum(glue.steps.values()) == pytest.approx(glue.seconds)
    assert glue.peak_bytes > 100_000_000
    assert glue.examples == found.examples if not private else 0.5 < glue.examples / found.examples < 2  # type: ignore[operator]
    assert glue.state != found.pairs[0].ours.state
    assert set(found.pairs[0].accuracy["glue"]) == set(found.sites)
