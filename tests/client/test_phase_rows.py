"""A site whose phases add labels: which rows a round uses, and what they cost."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from one_site import random_state
from tiny import make_rows

from fedrelease.client.ledger import total
from fedrelease.client.left_behind import shelf_of
from fedrelease.client.phase_rows import rows_of, steps_before, steps_in_all, stretches
from fedrelease.client.site import Site, evaluate_site, train_site
from fedrelease.data.sites import SiteData, open_site, prepare_sites
from fedrelease.data.tokens import TokenRows
from fedrelease.errors import DataError
from fedrelease.experiment import Adapter, AdapterChange, Data, Experiment, Model, Partition, Phase, Privacy, Training
from fedrelease.messages import Request
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import TextClassifier, build_classifier, trainable_state

LABELS = ("negative", "positive", "neutral")


def experiment_of(source: Path, base: Path, *, unit: str = "example") -> Experiment:
    return Experiment(
        model=Model(base=str(base), labels=LABELS, adapter=Adapter(rank=2, layers="last:1")),
        data=Data(source=str(source), partition=Partition(by="column", column="site")),
        training=Training(batch_size=8, max_length=64, lr=0.01),
        privacy=Privacy(unit=unit, accountant="rdp"),
        phases=(
            Phase(name="few", rounds=2, labels=LABELS[:2]),
            Phase(name="same", rounds=1),
            Phase(name="more", rounds=2, labels=LABELS),
        ),
    )


@pytest.fixture
def experiment(tmp_path: Path, tiny_base: Path) -> Experiment:
    """Every third row is neutral."""
    source = make_rows(tmp_path / "rows.csv", sites=("a", "b"), rows=60)
    head, *lines = source.read_text(encoding="utf-8").splitlines()
    changed = [line.replace("negative", "neutral").replace("positive", "neutral") for line in lines[::3]]
    lines[::3] = changed
    source.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    return experiment_of(source, tiny_base)


@pytest.fixture
def data(experiment: Experiment, tiny_base: Path, tmp_path: Path) -> SiteData:
    digest = open_base(str(tiny_base), cache=tiny_base).tokenizer_digest
    found = prepare_sites(experiment, base_folder=tiny_base, tokenizer_digest=digest, cache=tmp_path / "cache")
    return open_site(found.folder / "a")


def asked(experiment: Experiment, round: int) -> Request:
    return Request(experiment=experiment, version=f"0.0.{round}", round=round, base="b" * 64, directives={})


def built(experiment: Experiment, base: Path, round: int) -> TextClassifier:
    return build_classifier(open_base(str(base), cache=base), experiment.model_at(round), seed=3)


def test_a_round_uses_the_rows_of_its_labels_and_no_row_changes_sides(experiment: Experiment, data: SiteData) -> None:
    few, all_ = rows_of(data, asked(experiment, 3)), rows_of(data, asked(experiment, 4))
    for part in ("train", "holdout"):
        whole, chosen = getattr(data, part), getattr(few, part)
        assert isinstance(whole, TokenRows) and isinstance(chosen, TokenRows)
        kept = [row for row, label in enumerate(whole.labels.tolist()) if label < 2]
        assert 0 < len(kept) < len(whole)
        assert chosen.labels.tolist() == whole.labels[kept].tolist()
        assert torch.equal(chosen.batch(range(len(kept))).input_ids, whole.batch(kept).input_ids)
    assert all_.train is data.train
    assert (few.split, few.fingerprint, few.label_counts) == (data.split, data.fingerprint, data.label_counts)
    assert rows_of(few, asked(experiment, 1)).train is few.train


def test_stretches_are_runs_of_rounds_with_the_same_labels_and_steps_add_up_over_them(experiment: Experiment) -> None:
    """Batches of 8: 40 rows are 5 steps a round, 72 rows are 9; three rounds with two labels, two with three."""
    rows = torch.zeros(40)
    counts = {"negative": 16, "positive": 24, "neutral": 32}
    data = SiteData(name="a", fingerprint="", split="", train=rows, holdout=rows, label_counts=counts)  # type: ignore[arg-type]
    assert stretches(data, experiment, round=0) == ((40, 5, 3), ((72, 9, 2),))
    assert stretches(data, experiment, round=3) == ((40, 5, 3), ((72, 9, 2),))
    assert stretches(data, experiment, round=4) == ((72, 9, 2), ((40, 5, 3),))
    assert [steps_before(data, experiment, round=round) for round in range(1, 6)] == [0, 5, 10, 15, 24]
    assert steps_in_all(data, experiment) == 33


def test_all_rounds_of_a_private_plan_cost_its_epsilon_with_one_noise_and_the_rates_of_their_rows(
    experiment: Experiment, data: SiteData, tiny_base: Path, tmp_path: Path
) -> None:
    site = Site(data=data, home=tmp_path / "home", noise="seeded")
    receipts = []
    for round in range(1, 6):
        model = built(experiment, tiny_base, round)
        answer, _ = train_site(site, asked(experiment, round), random_state(model, seed=round), model)
        assert answer.receipt is not None
        receipts.append(answer.receipt)
    few, all_ = len(rows_of(data, asked(experiment, 1)).train), len(data.train)
    assert [receipt.sample_rate for receipt in receipts] == [8 / few] * 3 + [8 / all_] * 2
    assert len({receipt.noise_multiplier for receipt in receipts}) == 1
    assert 0.99 * 8.0 <= total(site.ledger.entries(), delta=1e-5, accountant="rdp") <= 8.0


def test_a_hold_out_is_looked_at_with_the_rows_of_the_rounds_labels(
    experiment: Experiment, data: SiteData, tiny_base: Path, tmp_path: Path
) -> None:
    plain = replace(experiment, privacy=Privacy(unit="none"))
    site = Site(data=data, home=tmp_path / "home", noise="seeded")
    for round, classes in ((0, 2), (4, 3)):
        model = built(plain, tiny_base, round)
        answer = evaluate_site(site, asked(plain, round), trainable_state(model), model)
        known = [label for label in data.holdout.labels.tolist() if label < classes]
        assert answer.confusion is not None and len(answer.confusion) == classes
        assert sum(map(sum, answer.confusion)) == len(known) == answer.examples


def test_data_prepared_for_fewer_labels_is_told_which_are_missing(experiment: Experiment, data: SiteData) -> None:
    """With privacy from the first round on: the noise is for the whole plan. Without it when they are needed."""
    older = replace(data, label_counts={label: data.label_counts[label] for label in LABELS[:2]})
    with pytest.raises(
        DataError, match=r"prepared without neutral.*the plan has the labels.*prepare the site's data again"
    ):
        rows_of(older, asked(experiment, 1))
    plain = replace(experiment, privacy=Privacy(unit="none"))
    assert len(rows_of(older, asked(plain, 3)).train) < len(data.train)
    with pytest.raises(
        DataError, match=r"prepared without neutral.*0\.0\.4 has the labels negative, positive, neutral"
    ):
        rows_of(older, asked(plain, 4))


def test_a_site_without_a_row_of_the_rounds_labels_says_so_and_pays_nothing(
    experiment: Experiment, data: SiteData, tiny_base: Path, tmp_path: Path
) -> None:
    later = data.train.chosen((data.train.labels == 2).nonzero().flatten())
    counts = {"negative": 0, "positive": 0, "neutral": len(later)}
    site = Site(data=replace(data, train=later, label_counts=counts), home=tmp_path / "home", noise="seeded")
    model = built(experiment, tiny_base, 1)
    with pytest.raises(DataError, match=r"a has nothing to train on.*phase\.sites"):
        train_site(site, asked(experiment, 1), random_state(model, seed=1), model)
    assert site.ledger.entries() == ()
    model = built(experiment, tiny_base, 4)
    answer, _ = train_site(site, asked(experiment, 4), random_state(model, seed=1), model)
    assert answer.receipt is not None and answer.receipt.sample_rate == min(1.0, 8 / len(later))


def test_what_a_site_kept_between_rounds_grows_by_the_rows_of_new_labels(
    experiment: Experiment, tmp_path: Path
) -> None:
    """Its own numbers stay; what it begins with for a new label is what it is told to: zeros of a variate, a release's rows."""
    shelf = shelf_of(tmp_path, "scaffold", asked(experiment, 3))
    shelf.keep({"head.bias": torch.tensor([1.0, 2.0]), "layer.lora_A": torch.ones(1, 2)})
    path = shelf.newest()
    assert path is not None
    like = {"head.bias": torch.tensor([0.0, 0.0, 0.5]), "layer.lora_A": torch.zeros(1, 2)}
    found = shelf.read(path, like=like, what="variate", without="zeros")
    assert found["head.bias"].tolist() == [1.0, 2.0, 0.5]
    assert found["layer.lora_A"].tolist() == [[1.0, 1.0]]
    with pytest.raises(DataError, match="variate does not fit the state"):
        shelf.read(path, like={**like, "layer.lora_A": torch.zeros(2, 2)}, what="variate", without="zeros")


def test_what_a_site_kept_grows_by_ranks_and_modules_only_where_the_adapter_has_grown_since(
    experiment: Experiment, tmp_path: Path
) -> None:
    """Round 3 is the first of the second phase."""
    first, second, third = experiment.phases
    before, after = (replace(asked(experiment, round), version=f"0.{round - 1}.{round}") for round in (2, 3))
    kept = {"q.lora_B": torch.ones(2, 1)}
    like = {"q.lora_B": torch.zeros(2, 2), "v.lora_B": torch.full((2, 2), 0.5)}
    wider = replace(experiment, phases=(first, replace(second, adapter=AdapterChange(rank=16, layers="all")), third))
    for place, plan in enumerate((wider, experiment)):
        shelf_of(tmp_path / str(place), "lora_B", replace(before, experiment=plan)).keep(kept)
        shelf = shelf_of(tmp_path / str(place), "lora_B", replace(after, experiment=plan))
        path = shelf.before()
        assert path is not None
        if plan is wider:
            found = shelf.read(path, like=like, what="private part", without="the release's")
            assert found["q.lora_B"].tolist() == [[1.0, 0.0], [1.0, 0.0]]
            assert torch.equal(found["v.lora_B"], like["v.lora_B"])
            continue
        with pytest.raises(DataError, match="private part does not fit the state"):
            shelf.read(path, like=like, what="private part", without="the release's")
