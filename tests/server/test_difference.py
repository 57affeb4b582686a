"""What lies between two releases."""

import math
from pathlib import Path

import torch
from example_store import make_store
from fake_sites import make_setting, run
from test_judging import DROP, TellingSites, experiment, setting_of

from fedrelease.server.difference import difference, moved_tensors
from fedrelease.server.gates.exact import exact_bounds
from fedrelease.server.gates.statistics import tango_interval


def test_answers_are_compared_item_by_item_with_an_interval(tmp_path: Path) -> None:
    """320 of 400 right, then 280: of the 400 none became right and 40 wrong, so d = -40 / 400."""
    setting = setting_of(tmp_path / "s", DROP, experiment(), [])
    run(setting)
    found = difference(setting.store.find("0.1.1"), setting.store.find("0.1.2"))
    both = {(one.slice, one.metric): one for one in found.slices}
    overall, site = both["overall", "accuracy"], both["site:a", "accuracy"]
    assert (overall.n, overall.before, overall.after, overall.difference) == (800, 0.8, 0.7, -0.1)
    assert (overall.low, overall.high) == tango_interval(80, 0, 800, 0.05)
    assert (site.n, site.difference) == (400, -0.1) and site.low < overall.low
    assert both["overall", "loss"].difference == 0.0
    assert found.unpaired is None


def test_few_items_have_exact_bounds(tmp_path: Path) -> None:
    """One site has 200 items of each label; 20 of the last ones of each turn wrong."""
    setting = make_setting(tmp_path / "s", TellingSites("a", DROP), experiment=experiment(rounds=2))
    run(setting)
    found = difference(setting.store.find("0.1.1"), setting.store.find("0.1.2"))
    one = next(one for one in found.slices if one.slice == "class:negative")
    assert (one.n, one.low, one.high) == (200, *exact_bounds(20, 0, 200, alpha=0.05, margin=0.02))


def test_gates_that_say_something_else_and_the_other_way_round(tmp_path: Path) -> None:
    setting = setting_of(tmp_path / "s", DROP, experiment(), [])
    run(setting)
    good, bad = setting.store.find("0.1.1"), setting.store.find("0.1.2")
    change = next(one for one in difference(good, bad).gates if (one.gate, one.slice) == ("quality", "overall"))
    back = next(one for one in difference(bad, good).gates if (one.gate, one.slice) == ("quality", "overall"))
    assert (change.before, change.after) == ("pass", "fail") == (back.after, back.before)


def test_a_tensor_moves_by_the_share_of_its_length() -> None:
    """From (3, 4), of length 5, to (3, 5): distance 1, a fifth."""
    before = {"a": torch.tensor([3.0, 4.0]), "b": torch.zeros(2), "c": torch.ones(2), "gone": torch.ones(1)}
    after = {"a": torch.tensor([3.0, 5.0]), "b": torch.ones(2), "c": torch.ones(2), "new": torch.ones(1)}
    found = {one.name: one for one in moved_tensors(before, after)}
    assert found["a"].relative == 0.2 and found["a"].distance == 1.0
    assert found["b"].relative is None and math.isclose(found["b"].distance or 0, math.sqrt(2))
    assert (found["gone"].what, found["new"].what) == ("gone", "new") and "c" not in found


def test_a_head_that_grew_is_told_by_its_shapes() -> None:
    (found,) = moved_tensors({"head": torch.zeros(2, 3)}, {"head": torch.zeros(4, 3)})
    assert found.what == "float32 [2, 3] -> float32 [4, 3]" and found.relative is None


def test_the_furthest_tensor_comes_first() -> None:
    before = {name: torch.ones(1) for name in "abc"}
    after = {"a": torch.full((1,), 1.5), "b": torch.full((1,), 3.0), "c": torch.full((1,), 1.25)}
    assert [one.name for one in moved_tensors(before, after)] == ["b", "a", "c"]


def test_without_items_metrics_sites_and_epsilon_are_compared_as_the_manifests_tell_them(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    found = difference(store.find("0.1.2"), store.find("0.1.1"))
    assert found.unpaired == "no answers item by item are kept of 0.1.2 and 0.1.1"
    mean = next(one for one in found.metrics if (one.who, one.metric) == ("mean", "accuracy"))
    assert (mean.before, mean.after) == (0.74, 0.71)
    assert (found.joined, found.left, found.epsilon) == (("tweets",), (), (3.0, 1.5))


def test_two_stores_experiments_are_told_apart_key_by_key(tmp_path: Path) -> None:
    releases = []
    for margin in (0.02, 0.05):
        wanted = experiment(rounds=1, gates={"quality": {"margin": margin}})
        setting = setting_of(tmp_path / str(margin), DROP, wanted, [])
        run(setting)
        releases.append(setting.store.find("0.1.1"))
    assert difference(releases[0], releases[1]).config == ("phase.0.gates.quality.margin: 0.02 -> 0.05",)
