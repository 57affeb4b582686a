"""Virtual sites: what a site has follows from its name."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedrelease.data.images import IMAGES
from fedrelease.data.sites import Prepared, open_site, prepare_sites, training_rows
from fedrelease.data.virtual import Pool, by_label, draw_rows
from fedrelease.errors import DataError
from fedrelease.experiment import Adapter, Data, Experiment, Federation, Model, Partition, Training
from fedrelease.models.bases import open_base

DIGITS = tuple("0123456789")


def experiment(alpha: float = 0.5, sites: int = 1_000_000, rows: int = 20, seed: int = 7) -> Experiment:
    return Experiment(
        federation=Federation(seed=seed, evaluators=0),
        model=Model(base="mlp:784-8", task="image-classification", labels=DIGITS, adapter=Adapter(kind="full")),
        data=Data(source="digits", partition=Partition(by="virtual", sites=sites, rows=rows, alpha=alpha)),
    )


def prepare(wanted: Experiment, cache: Path) -> Prepared:
    base = open_base(wanted.model.base, cache=cache)
    return prepare_sites(wanted, base_folder=base.folder, tokenizer_digest=base.tokenizer_digest, cache=cache)


def test_a_million_sites_take_the_room_of_their_source(tmp_path: Path) -> None:
    prepared = prepare(experiment(), tmp_path)
    assert len(prepared.sites) == 1_000_000
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 7  # the base, three of the pool, how sites draw, the summary, the lock
    pixels = IMAGES["digits"].read(Path())[0].nbytes
    assert sum(path.stat().st_size for path in files) < 1.02 * pixels


def test_a_site_has_the_rows_that_were_asked_for_and_the_same_ones_every_time(tmp_path: Path) -> None:
    prepared = prepare(experiment(), tmp_path)
    folder = prepared.folder / prepared.sites[123_456]
    one, again = open_site(folder), open_site(folder)
    assert (one.name, len(one.train), len(one.holdout)) == ("site-123456", 20, 5)
    assert training_rows(prepared, one.name) == 20
    assert torch.equal(one.train.batch(range(20)).inputs[0], again.train.batch(range(20)).inputs[0])
    assert (one.split, one.fingerprint) == (again.split, again.fingerprint)
    assert one.label_counts == {str(digit): int((one.train.labels == digit).sum()) for digit in range(10)}


def test_another_name_or_seed_draws_other_rows(tmp_path: Path) -> None:
    first, other = prepare(experiment(), tmp_path), prepare(experiment(seed=8), tmp_path)
    sites = [open_site(first.folder / name) for name in first.sites[:3]] + [open_site(other.folder / other.sites[0])]
    pixels = {site.train.batch(range(20)).inputs[0].numpy().tobytes() for site in sites}
    assert len(pixels) == len({site.split for site in sites}) == 4


def test_no_site_trains_on_a_row_of_anybodys_holdout(tmp_path: Path) -> None:
    prepared = prepare(experiment(sites=200), tmp_path)
    sites = [open_site(prepared.folder / name) for name in prepared.sites]

    def pixels(kind: str) -> set[bytes]:
        rows = [getattr(site, kind).batch(range(len(getattr(site, kind)))).inputs[0] for site in sites]
        return {row.numpy().tobytes() for site in rows for row in site}

    assert len(pixels("train")) > 1000 and len(pixels("holdout")) > 200
    assert not pixels("train") & pixels("holdout")


def test_small_alpha_gives_few_labels_a_site_and_large_alpha_the_sources_own_shares() -> None:
    labels = torch.tensor([0] * 500 + [1] * 300 + [2] * 200)
    rows = by_label(labels, 3)

    def drawn(alpha: float) -> list[Counter[int]]:
        pool = Pool(seed=1, rows=50, holdout=10, alpha=alpha)
        return [Counter(labels[draw_rows(pool, f"site-{n}", rows, rows)[0]].tolist()) for n in range(300)]

    uneven, even = drawn(0.01), drawn(1e6)
    assert sum(max(site.values()) == 50 for site in uneven) > 250
    shares = [sum(site[label] for site in even) / (50 * 300) for label in range(3)]
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.02)  # five deviations of a mean of 15,000 draws


@pytest.mark.parametrize("alpha", [5e-324, 1e-300, 1e300])
def test_no_alpha_is_too_small_or_too_large(alpha: float) -> None:
    rows = by_label(torch.tensor([0, 1, 1, 3, 3, 3]), 5)
    for name in ("a", "b", "c"):
        train, holdout = draw_rows(Pool(seed=1, rows=30, holdout=4, alpha=alpha), name, rows, rows)
        assert (len(train), len(holdout)) == (30, 4)


def test_a_label_that_the_holdout_lacks_is_replaced_there_by_others() -> None:
    train, holdout = by_label(torch.tensor([0, 0, 0]), 3), by_label(torch.tensor([2, 1, 2]), 3)
    drawn = draw_rows(Pool(seed=1, rows=5, holdout=300, alpha=1.0), "a", train, holdout)
    assert set(drawn[0].tolist()) <= {0, 1, 2} and set(drawn[1].tolist()) == {0, 1, 2}


def test_each_row_of_a_label_is_as_likely_as_any_other() -> None:
    """The slow twin counts: 60,000 draws of 6 rows with shares 1/3, 2/3, each row's count within five deviations."""
    rows = by_label(torch.tensor([1, 0, 1, 0, 1, 1]), 2)
    drawn = draw_rows(Pool(seed=3, rows=60_000, holdout=1, alpha=1e12), "a", rows, rows)[0].tolist()
    assert set(drawn) == set(range(6))
    assert all(abs(count - 10_000) < 5 * (60_000 * 1 / 6 * 5 / 6) ** 0.5 for count in Counter(drawn).values())


def test_a_damaged_description_is_refused(tmp_path: Path) -> None:
    prepared = prepare(experiment(rows=7), tmp_path)
    (prepared.folder / "population.json").write_text("{")
    with pytest.raises(DataError, match=r"population\.json cannot be read"):
        open_site(prepared.folder / prepared.sites[0])


def test_texts_can_be_virtual_too(tmp_path: Path, tiny_base: Path) -> None:
    table = "text,label\n" + "".join(f"word {n} is {'good' if n % 2 else 'bad'},{n % 2}\n" for n in range(60))
    (tmp_path / "rows.csv").write_text(table)
    wanted = Experiment(
        federation=Federation(evaluators=0),
        model=Model(base=str(tiny_base), labels=("bad", "good")),
        training=Training(max_length=64),
        data=Data(source=str(tmp_path / "rows.csv"), partition=Partition(by="virtual", sites=10**9, rows=6)),
    )
    base = open_base(str(tiny_base), cache=tmp_path)
    prepared = prepare_sites(wanted, base_folder=base.folder, tokenizer_digest=base.tokenizer_digest, cache=tmp_path)
    site = open_site(prepared.folder / prepared.sites[999_999_999])
    assert (site.name, len(site.train), len(site.holdout)) == ("site-999999999", 6, 2)
    batch = site.train.batch(range(6)).inputs
    assert batch[0].shape == batch[1].shape and batch[0].shape[0] == 6


def test_a_wrong_width_or_labels_are_told(tmp_path: Path) -> None:
    wanted = experiment()
    with pytest.raises(DataError, match="labels do not fit the source digits"):
        prepare(replace(wanted, model=replace(wanted.model, labels=("a", "b"))), tmp_path)
