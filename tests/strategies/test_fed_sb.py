"""Fed-SB: the mean of cores is the core of the mean of products, and only adapters with a core are taken."""

import pytest
import torch
from torch import Tensor

from fedrelease.adapter import ADAPTER_KINDS, Adapter
from fedrelease.errors import ExperimentError
from fedrelease.experiment import StrategyChoice
from fedrelease.strategies import STRATEGIES, check_adapter
from fedrelease.strategies.fed_sb import FedSB
from fedrelease.strategies.fedavg import FedAvg
from fedrelease.update import Update

FOR_FACTORS = ("feddpa", "fedex-lora", "fedit", "fedsa-lora", "ffa-lora", "flexlora", "flora", "hlora", "rolora")


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def update(site: int, core: Tensor, examples: int = 10) -> Update:
    return Update(
        site=f"s{site}",
        tensors={"q.lora_R": core},
        examples=examples,
        metrics={},
        receipt=None,
        digest="",
        size_bytes=0,
    )


def test_the_product_with_the_mean_core_is_the_mean_of_products() -> None:
    a, b, start = drawn(3, 9, seed=1), drawn(7, 3, seed=2), drawn(3, 3, seed=3)
    sites = [update(site, drawn(3, 3, seed=10 + site)) for site in range(4)]
    state, memory = FedSB().aggregate({"q.lora_R": start}, sites, {})
    mean = torch.stack([b @ (start + one.tensors["q.lora_R"]) @ a for one in sites]).mean(0)
    torch.testing.assert_close(b @ state["q.lora_R"] @ a, mean, atol=1e-12, rtol=1e-12)
    assert memory == {}


def test_it_is_fedavg_bit_for_bit_with_either_weighting() -> None:
    parent = {"q.lora_R": drawn(3, 3, seed=3).float()}
    sites = [update(site, drawn(3, 3, seed=10 + site).float(), 10 + site) for site in range(4)]
    for weighting in ("uniform", "examples"):
        found, _ = FedSB(weighting=weighting).aggregate(parent, sites, {})
        expected, _ = FedAvg(weighting=weighting).aggregate(parent, sites, {})
        assert torch.equal(found["q.lora_R"], expected["q.lora_R"])
    with pytest.raises(ExperimentError, match="weighting"):
        FedSB(weighting="votes")


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_another_adapter_is_refused_by_the_name_of_the_key(kind: str) -> None:
    with pytest.raises(ExperimentError, match=rf'kind = "{kind}".*adapter\] kind = "lora-sb"'):
        check_adapter(StrategyChoice(name="fed-sb"), Adapter(kind=kind))
    check_adapter(StrategyChoice(name="fed-sb"), Adapter(kind="lora-sb"))


@pytest.mark.parametrize("name", FOR_FACTORS)
def test_a_rule_for_factors_is_refused_and_those_that_work_are_named(name: str) -> None:
    with pytest.raises(ExperimentError, match=f"{name} does not work with this adapter") as refusal:
        check_adapter(StrategyChoice(name=name), Adapter(kind="lora-sb"))
    listed = set(refusal.value.rule.partition("one of ")[2].split(", "))
    assert listed == STRATEGIES.keys() - set(FOR_FACTORS)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_works_with_some_adapter_that_there_is(name: str) -> None:
    rule = STRATEGIES[name]
    kinds = rule.adapters
    assert kinds and set(kinds) <= set(ADAPTER_KINDS)
    needed = Adapter(kind=kinds[-1], residual=rule.writes_residual, own_rank=int(rule.keeps_own_pair))
    check_adapter(StrategyChoice(name=name), needed)


def test_rules_that_freeze_a_factor_are_refused_before_training_where_every_weight_is_trained() -> None:
    for name in ("ffa-lora", "rolora"):
        with pytest.raises(ExperimentError, match=rf'{name} does not work.*adapter\] kind = "lora"'):
            check_adapter(StrategyChoice(name=name), Adapter(kind="full"))


@pytest.mark.parametrize("kind", ["layers", "norms"])
def test_squares_of_gradients_that_no_site_forms_are_not_asked_for(kind: str) -> None:
    with pytest.raises(ExperimentError, match=r'fisher does not work with this adapter.*kind = "lora"'):
        check_adapter(StrategyChoice(name="fisher"), Adapter(kind=kind))
    check_adapter(StrategyChoice(name="fisher"), Adapter(kind="bottleneck"))
