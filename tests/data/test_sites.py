"""Prepared sites: the same in, the same out; made once; nothing half made."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from site_tokenizer import save_tokenizer

from fedrelease.data import sites as sites_module
from fedrelease.data.plan import _split
from fedrelease.data.sites import Prepared, PrepareProgress, find_prepared, open_site, prepare_sites
from fedrelease.data.tokens import TokenRows
from fedrelease.errors import DataError
from fedrelease.experiment import Data, Experiment, Federation, Model, Partition, Training


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("base"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two clinics with 40 and 20 rows, labels taking turns; every text is different by its number of words."""
    lines = [f"{'good ' * (row // 7 + 1)}film {row},{row % 2},{'east' if row < 40 else 'west'}" for row in range(60)]
    path = tmp_path / "rows.csv"
    path.write_text("text,label,clinic\n" + "\n".join(lines))
    return path


def experiment(source: Path, **data: object) -> Experiment:
    partition = Partition(by="column", column="clinic")
    return Experiment(
        model=Model(labels=("no", "yes")),
        data=replace(Data(source=str(source), partition=partition), **data),  # type: ignore[arg-type]
        training=Training(max_length=32),
    )


def prepare(one: Experiment, base: Path, cache: Path, tokenizer_digest: str = "t1") -> Prepared:
    return prepare_sites(one, base_folder=base, tokenizer_digest=tokenizer_digest, cache=cache)


def counts(prepared: Prepared) -> dict[str, tuple[int, int]]:
    opened = [open_site(prepared.folder / name) for name in prepared.sites]
    return {site.name: (len(site.train), len(site.holdout)) for site in opened}


def test_every_site_has_its_rows_split_by_the_hold_out_share(source: Path, base: Path, tmp_path: Path) -> None:
    prepared = prepare(experiment(source), base, tmp_path)
    assert prepared.sites == ("east", "west")
    assert counts(prepared) == {"east": (34, 6), "west": (15, 5)}  # 0.2 of 40 and of 20, by each row's own hash
    assert prepared.server_holdout is None
    assert prepared.warnings == ()


def test_label_counts_are_those_of_the_training_rows(source: Path, base: Path, tmp_path: Path) -> None:
    prepared = prepare(experiment(source), base, tmp_path)
    site = open_site(prepared.folder / "east")
    assert site.label_counts == {
        "no": int((site.train.labels == 0).sum()),
        "yes": int((site.train.labels == 1).sum()),
    }
    assert list(site.label_counts) == ["no", "yes"]


def test_limits_hold_before_and_after_the_split(source: Path, base: Path, tmp_path: Path) -> None:
    prepared = prepare(experiment(source, limit_per_site=30, holdout=0.5, holdout_limit=3), base, tmp_path)
    assert counts(prepared) == {"east": (14, 3), "west": (10, 3)}  # 30 and 20 rows, halved by hash, 3 held out at most


def test_each_side_of_a_split_has_a_row_however_small_or_large_the_share(
    source: Path, base: Path, tmp_path: Path
) -> None:
    assert counts(prepare(experiment(source, holdout=0.001), base, tmp_path)) == {"east": (39, 1), "west": (19, 1)}
    nearly_all = replace(
        experiment(source, holdout=0.999), federation=Federation(seed=2)
    )  # one row of each label is left
    assert counts(prepare(nearly_all, base, tmp_path)) == {"east": (1, 39), "west": (1, 19)}


def test_the_servers_hold_out_is_taken_from_the_sites(source: Path, base: Path, tmp_path: Path) -> None:
    prepared = prepare(experiment(source, server_holdout=0.1), base, tmp_path)
    assert prepared.server_holdout is not None
    assert len(TokenRows(prepared.server_holdout)) == 6
    assert sum(train + held for train, held in counts(prepared).values()) == 54


def test_a_second_call_prepares_nothing(
    source: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(experiment(source), base, tmp_path)
    monkeypatch.setattr(sites_module, "load_table", None)
    monkeypatch.setattr(sites_module, "load_tokenizer", None)
    assert prepare(experiment(source), base, tmp_path) == first


def test_another_machine_prepares_the_same_bytes(source: Path, base: Path, tmp_path: Path) -> None:
    one, two = (prepare(experiment(source), base, tmp_path / name) for name in ("a", "b"))
    files = [path.relative_to(one.folder) for path in one.folder.rglob("*") if path.is_file()]
    assert one.folder.name == two.folder.name
    assert len(files) == 7  # three a site, and the summary
    assert all((one.folder / path).read_bytes() == (two.folder / path).read_bytes() for path in files)


def test_whatever_changes_the_rows_changes_the_folder_and_nothing_else_does(
    source: Path, base: Path, tmp_path: Path
) -> None:
    one = experiment(source)
    changed = [
        replace(one, federation=Federation(seed=8)),
        replace(one, training=Training(max_length=16)),
        replace(one, model=Model(labels=("yes", "no"))),
        replace(one, data=replace(one.data, holdout=0.3)),
    ]
    folders = {prepare(other, base, tmp_path).folder for other in (one, *changed)}
    folders.add(prepare(one, base, tmp_path, tokenizer_digest="t2").folder)
    assert len(folders) == 6
    assert prepare(replace(one, training=Training(max_length=32, lr=0.5)), base, tmp_path).folder in folders
    copy = tmp_path / "copy.csv"
    copy.write_bytes(source.read_bytes())
    assert prepare(experiment(copy), base, tmp_path).folder in folders


def test_a_fingerprint_is_that_of_the_rows_alone(source: Path, base: Path, tmp_path: Path) -> None:
    def fingerprint(one: Experiment, site: str = "east") -> str:
        return open_site(prepare(one, base, tmp_path).folder / site).fingerprint

    one = experiment(source)
    assert fingerprint(one) == fingerprint(experiment(source, limit_per_site=10, holdout=0.5))
    assert fingerprint(one) == fingerprint(replace(one, federation=Federation(seed=99)))
    assert fingerprint(one) != fingerprint(one, "west")
    lines = source.read_text().split("\n")
    source.write_text("\n".join([lines[0], *reversed(lines[1:])]))
    reordered = fingerprint(experiment(source))
    source.write_text("\n".join([lines[0], lines[1].replace(",0,", ",1,"), *lines[2:]]))
    assert fingerprint(experiment(source)) != reordered
    source.write_text("\n".join(lines))
    assert fingerprint(one) == reordered


def test_two_sites_shuffle_differently_and_one_site_does_not_change_anothers(
    source: Path, base: Path, tmp_path: Path
) -> None:
    before = open_site(prepare(experiment(source), base, tmp_path).folder / "east")
    lines = source.read_text().split("\n")
    source.write_text("\n".join(lines[:-5]))  # five rows less in the west
    after = open_site(prepare(experiment(source), base, tmp_path).folder / "east")
    assert before.train.lengths.tolist() == after.train.lengths.tolist()
    assert before.train.labels.tolist() == after.train.labels.tolist()


def test_a_site_that_a_limit_leaves_with_one_row_is_refused(source: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="site east would have 1 row"):
        prepare(experiment(source, limit_per_site=1), base, tmp_path)


def test_a_site_of_one_class_is_legal_and_told(source: Path, base: Path, tmp_path: Path) -> None:
    source.write_text("text,label,clinic\n" + "\n".join(f"film {row},{row // 10},c{row // 10}" for row in range(20)))
    warnings = prepare(experiment(source), base, tmp_path).warnings
    assert warnings == (
        "site c0 has training rows of one label only (no)",
        "site c1 has training rows of one label only (yes)",
    )
    assert prepare(experiment(source), base, tmp_path).warnings == warnings


def test_a_federation_of_one_class_is_refused(source: Path, base: Path, tmp_path: Path) -> None:
    source.write_text("text,label,clinic\n" + "\n".join(f"film {row},yes,c{row % 2}" for row in range(20)))
    with pytest.raises(DataError, match="every training row has the label yes"):
        prepare(experiment(source), base, tmp_path)


def test_a_failure_half_way_leaves_no_folder(
    source: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(event: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_sites(experiment(source), base_folder=base, tokenizer_digest="t1", cache=tmp_path, progress=stop)
    assert [path.name for path in (tmp_path / "prepared").iterdir()] == [".lock"]
    assert counts(prepare(experiment(source), base, tmp_path)) == {"east": (34, 6), "west": (15, 5)}


def test_two_preparations_at_once_give_one_folder(source: Path, base: Path, tmp_path: Path) -> None:
    found: list[Prepared] = []
    threads = [
        threading.Thread(target=lambda: found.append(prepare(experiment(source), base, tmp_path))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0] == found[1]


def test_progress_tells_every_site(source: Path, base: Path, tmp_path: Path) -> None:
    events: list[object] = []
    prepare_sites(experiment(source), base_folder=base, tokenizer_digest="t", cache=tmp_path, progress=events.append)
    assert events == [PrepareProgress(site="east", done=1, total=2), PrepareProgress(site="west", done=2, total=2)]


def test_a_damaged_site_is_refused_with_the_folder_to_delete(source: Path, base: Path, tmp_path: Path) -> None:
    folder = prepare(experiment(source), base, tmp_path).folder
    (folder / "east" / "site.json").write_text("{")
    with pytest.raises(DataError, match="not a prepared site") as caught:
        open_site(folder / "east")
    assert str(folder) in caught.value.hint


def test_a_row_more_or_less_moves_no_other_row_between_training_and_hold_out() -> None:
    texts = [f"text {number}" for number in range(50)]
    whole = _split("east", range(50), texts, Data(holdout=0.3), 7)
    for gone in range(50):
        rest = [row for row in range(50) if row != gone]
        part = _split("east", rest, texts, Data(holdout=0.3), 7)
        assert set(part.train) == set(whole.train) - {gone}
        assert set(part.holdout) == set(whole.holdout) - {gone}


def test_equal_texts_lie_on_one_side_of_the_split() -> None:
    texts = [f"text {number % 10}" for number in range(60)]
    split = _split("east", range(60), texts, Data(holdout=0.5), 7)
    assert {texts[row] for row in split.train}.isdisjoint({texts[row] for row in split.holdout})


def test_prepared_sites_are_found_without_preparing_any(source: Path, base: Path, tmp_path: Path) -> None:
    one = experiment(source, server_holdout=0.25)
    cache = tmp_path / "cache"
    assert find_prepared(one, tokenizer_digest="t1", cache=cache) is None
    assert not cache.exists()
    made = prepare(one, base, cache)
    assert made.server_holdout is not None
    assert find_prepared(one, tokenizer_digest="t1", cache=cache) == made
    assert find_prepared(one, tokenizer_digest="t2", cache=cache) is None
    source.unlink()
    assert find_prepared(one, tokenizer_digest="t1", cache=cache) is None
