import csv
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from example_store import make_store, manifest_of

from fedrelease.server.store import Store
from fedrelease.simulations.curve import curve_png
from fedrelease.simulations.report import Row, learning_curve, row_of, summary_rows, write_summary

ROW = row_of(manifest_of(1), None)


@pytest.fixture
def example_store(tmp_path: Path) -> Store:
    """Releases 0.0.0 and 0.1.1 to 0.1.4; 0.1.3 is held."""
    return make_store(tmp_path / "store")


def size_of(png: bytes) -> tuple[int, ...]:
    assert png.startswith(b"\x89PNG")
    return struct.unpack(">II", png[16:24])


def test_rows_come_oldest_first_with_what_the_log_knows(example_store: Store) -> None:
    rows = summary_rows(example_store)
    assert [row.version for row in rows] == ["0.0.0", "0.1.1", "0.1.2", "0.1.3", "0.1.4"]
    newest = rows[-1]
    assert (newest.accuracy, newest.worst_site, newest.worst_accuracy, newest.epsilon) == (0.8, "movie", 0.74, 6.0)
    assert (newest.bytes_up, newest.bytes_down, newest.seconds) == (820_000, 1_640_000, 12.5)


def test_what_was_withheld_or_lost_is_none() -> None:
    row = row_of(manifest_of(1, told=False), None)
    assert (row.accuracy, row.worst_site, row.seconds, row.sites) == (None, None, None, {})


def test_the_picture_has_the_promised_size_and_equal_rows_give_equal_bytes(
    example_store: Store, tmp_path: Path
) -> None:
    first = learning_curve(example_store, tmp_path / "a.png").read_bytes()
    second = learning_curve(example_store, tmp_path / "b.png").read_bytes()
    assert size_of(first) == (1200, 750)
    assert first == second


@pytest.mark.parametrize(
    "rows",
    [
        (),
        (ROW,),
        (row_of(manifest_of(1, told=False), None),),
        (replace(ROW, epsilon=None, sites={}),),
        (ROW, replace(ROW, version="0.1.2", accuracy=None, sites={"amazon": 0.5})),
        tuple(replace(ROW, version=f"0.1.{n}", sites={f"s{i}": i / 40 for i in range(40)}) for n in range(60)),
        (replace(ROW, sites={"$a^b$": 0.5, "_x": 0.6}),),
        (replace(ROW, shown={"perplexity": 513_294.8}), replace(ROW, version="0.1.2", shown={"perplexity": 2.0})),
        (replace(ROW, shown={"r2": -0.1}), replace(ROW, version="0.1.2", shown={"r2": None})),
    ],
    ids=["empty", "one", "withheld", "no-privacy", "partly-withheld", "many", "odd-names", "wide", "partly-shown"],
)
def test_any_rows_can_be_drawn(rows: tuple[Row, ...]) -> None:
    assert size_of(curve_png(rows, name="four_$ites")) == (1200, 750)


def test_what_a_task_shows_beside_accuracy_is_drawn_too() -> None:
    rows = [replace(ROW, version=f"0.1.{n}", shown={"perplexity": 50.0 - n}) for n in range(3)]
    bare = [replace(row, shown={}) for row in rows]
    assert (
        curve_png(rows, name="x")
        != curve_png(bare, name="x")
        == curve_png([replace(row, shown={"f": None}) for row in rows], name="x")
    )


def test_the_summary_has_one_row_a_version_and_one_column_a_site(example_store: Store, tmp_path: Path) -> None:
    path = write_summary(example_store, tmp_path / "summary.csv")
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert [row["version"] for row in rows] == ["0.0.0", "0.1.1", "0.1.2", "0.1.3", "0.1.4"]
    assert (rows[-1]["accuracy"], rows[-1]["site:tweets"], rows[0]["epsilon"]) == ("0.8", "0.86", "")


def test_a_store_of_private_sites_can_be_reported(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", rounds=1, told=False)
    assert learning_curve(store, tmp_path / "curve.png").exists()
