"""What a store costs, small: counts of bytes, which are the same everywhere."""

import json
from pathlib import Path

import pytest

from fedrelease.simulations.bench.store import main, measure_adapters, measure_packing, measure_work


def test_a_base_and_eleven_adapter_releases_take_at_most_a_tenth_more_than_the_base(tmp_path: Path) -> None:
    assert 1 + 11 * 0.004 < measure_adapters(tmp_path / "releases", parameters=1_000_000) <= 1.1


def test_ten_whole_models_take_ten_times_one_and_packed_a_good_deal_less(tmp_path: Path) -> None:
    before, after = measure_packing(tmp_path / "releases", parameters=50_000)
    assert before == 10 and after < 7.1


def test_the_work_on_a_small_store_is_told_by_name(tmp_path: Path) -> None:
    told = measure_work(tmp_path / "releases", releases=3)
    ends = [f"publish{alone}, the {end} 20" for alone in ("", " without fsync") for end in ("first", "last")]
    assert list(told) == ["publish", *ends, "gc", "fsck", "verify"]


def test_a_store_without_whole_models_is_refused_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measure_work(tmp_path / "releases", releases=1)
    assert main(["--packed", str(tmp_path / "releases"), "--json"]) == 1
    assert json.loads(capsys.readouterr().err)["error"]["what"] == "no raw release of a whole model"
