"""The table of rules for LoRA factors: its errors are what they are called, and its command prints them."""

import json
import math
from pathlib import Path

import pytest
import torch
from pytest import approx
from tiny import experiment_text, make_rows

from fedrelease.simulations.bench import ranks, ranks_factors
from fedrelease.simulations.bench.ranks_errors import misses
from fedrelease.simulations.bench.ranks_factors import Factors, drawn_factors, trained_factors
from fedrelease.update import Update

MIXED = (4, 8, 16, 16)


def update(site: str, first: float, second: float) -> Update:
    tensors = {"q.lora_A": torch.tensor([[first]]), "q.lora_B": torch.tensor([[second]])}
    return Update(site=site, tensors=tensors, examples=None, metrics={}, receipt=None, digest="", size_bytes=0)


def test_errors_are_those_of_two_sites_worked_by_hand() -> None:
    """Sites end with B A of 1 * 1 and 3 * 3: the mean is 5, the product of the means 2 * 2 = 4, off by 1, a fifth."""
    parent = {"q.lora_A": torch.zeros(1, 1), "q.lora_B": torch.zeros(1, 1)}
    given = Factors(name="hand", ranks=(1, 1), parent=parent, updates=(update("a", 1.0, 1.0), update("b", 3.0, 3.0)))
    found = {miss.rule: miss for miss in misses(given)}
    assert (found["fedavg"].largest, found["fedavg"].relative) == approx((1.0, 0.2))
    assert found["flexlora"].largest == approx(0.0, abs=1e-6)
    assert (found["stack (exact)"].rank, found["stack (exact)"].largest) == (2, approx(0.0, abs=1e-12))


@pytest.mark.parametrize("sites", [MIXED, (16, 16, 16, 16)])
def test_cut_rules_reach_the_best_of_their_rank_and_naive_ones_do_not(sites: tuple[int, ...]) -> None:
    found = {miss.rule: miss for miss in misses(drawn_factors(sites, width=48, seed=3))}
    best = found["best of rank (dense SVD)"].relative
    for rule in ("flexlora", "flora", "hlora"):
        assert found[rule].relative == approx(best, rel=1e-5) and found[rule].rank == 16
    assert found["fedit"].relative > 1.2 * best > 0
    assert found["stack (exact)"].relative < 1e-12 and found["stack (exact)"].rank == sum(sites)
    assert ("fedavg" in found) is (len(set(sites)) == 1), "with mixed ranks it is refused"


def test_the_command_prints_a_table_and_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert ranks.main(["--width", "32"]) == 0
    table = capsys.readouterr().out
    assert "relative error" in table and "4, 8, 16, 16" in table
    assert ranks.main(["--width", "32", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {(row["factors"], tuple(row["ranks"])) for row in document} == {("random", MIXED), ("random", (16,) * 4)}
    assert all(math.isfinite(row["relative"]) for row in document)


@pytest.mark.slow
def test_factors_that_sites_trained_are_compared_too(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows(tmp_path / "rows.csv", sites=ranks_factors.SITES, rows=24)
    (tmp_path / "tiny.toml").write_text(experiment_text(tiny_base, rows, privacy='unit = "none"'), encoding="utf-8")
    monkeypatch.setattr(ranks_factors, "files", lambda package: tmp_path)
    monkeypatch.setattr(ranks_factors, "STUDY", "tiny")
    monkeypatch.setenv("FEDRELEASE_CACHE", str(tmp_path / "cache"))
    given = trained_factors((1, 2, 4, 4), rows=24)
    layer = next(name for name in given.parent if name.endswith("lora_A"))
    assert [len(one.tensors[layer]) for one in given.updates] == [1, 2, 4, 4]
    found = {miss.rule: miss for miss in misses(given)}
    assert found["fedit"].relative > found["flexlora"].relative and found["stack (exact)"].relative < 1e-12
