"""LoRA scaled by alpha / sqrt(rank): against dense weights, peft's own layer, and across a phase that raises the rank."""

import math
from pathlib import Path

import pytest
import torch
from tiny import token_rows
from torch import Tensor

from fedrelease.adapter_plan import check_adapters
from fedrelease.data.tokens import TokenRows
from fedrelease.errors import ExperimentError
from fedrelease.experiment import Adapter, AdapterChange, Experiment, Model
from fedrelease.experiment_document import experiment_digest, to_document
from fedrelease.factors import FIRST, SECOND, layers_of
from fedrelease.growth import grown
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import TextClassifier, build_classifier, load_state, trainable_state
from fedrelease.models.evaluation import predict_logits
from fedrelease.models.per_example import plain_layers

STABLE = Adapter(rank=4, alpha=6.0, layers="last:1", rank_stabilised=True)


def built(base: Path, adapter: Adapter) -> TextClassifier:
    return build_classifier(open_base(str(base), cache=base), Model(adapter=adapter), seed=3).eval()


def learned(model: TextClassifier) -> dict[str, Tensor]:
    numbers = torch.Generator().manual_seed(1)
    state = {name: 0.5 * torch.randn(t.shape, generator=numbers) for name, t in trainable_state(model).items()}
    load_state(model, state)
    return state


@pytest.fixture
def rows(tmp_path: Path, tiny_base: Path) -> TokenRows:
    return token_rows(tmp_path / "rows.safetensors", tiny_base)


def test_the_scale_is_alpha_over_the_root_of_the_rank() -> None:
    """6 / sqrt(4) = 3 where it was 6 / 4 = 1.5."""
    assert STABLE.scaling == 3.0 and Adapter(rank=4, alpha=6.0).scaling == 1.5


def test_logits_are_those_of_the_product_in_the_weight(tiny_base: Path, rows: TokenRows) -> None:
    model, dense = built(tiny_base, STABLE), built(tiny_base, Adapter(kind="full"))
    state = learned(model)
    whole = trainable_state(dense)
    for layer in layers_of(state.keys()):
        whole[f"{layer}.weight"] += 3.0 * state[layer + SECOND] @ state[layer + FIRST]
    load_state(dense, {**whole, **{name: state[name] for name in ("head.bias", "head.weight")}})
    torch.testing.assert_close(predict_logits(model, rows), predict_logits(dense, rows), atol=1e-5, rtol=1e-5)
    with plain_layers(model):
        torch.testing.assert_close(predict_logits(model, rows), predict_logits(dense, rows), atol=1e-5, rtol=1e-5)


def test_a_phase_that_raises_the_rank_keeps_the_scale_and_what_the_model_says(tiny_base: Path, rows: TokenRows) -> None:
    """From rank 4 to 9 alpha goes from 6 to 9: 6 / 2 = 9 / 3."""
    wide = AdapterChange(rank=9).of(STABLE)
    assert wide.alpha == pytest.approx(9.0) and wide.scaling == pytest.approx(3.0)
    small, large = built(tiny_base, STABLE), built(tiny_base, wide)
    load_state(large, grown(learned(small), like=trainable_state(large)))
    torch.testing.assert_close(predict_logits(large, rows), predict_logits(small, rows), atol=1e-5, rtol=1e-5)


def test_another_alpha_is_refused_with_the_one_that_keeps_the_scale() -> None:
    with pytest.raises(ExperimentError, match=r"phase\.1\.adapter\.alpha.*keeps alpha / sqrt\(rank\) at 3.*to 12"):
        check_adapters(STABLE, [AdapterChange(), AdapterChange(rank=16, alpha=24.0)])
    check_adapters(STABLE, [AdapterChange(), AdapterChange(rank=16, alpha=12.0)])


@pytest.mark.parametrize("kind", ["full", "lora-sb", "head"])
def test_it_is_of_lora_alone(kind: str) -> None:
    with pytest.raises(ExperimentError, match=f'rank_stabilised.*left out with kind = "{kind}"'):
        Adapter(kind=kind, rank_stabilised=True)


def test_it_counts_in_the_digest_and_is_written_only_where_it_is_set() -> None:
    stable = Experiment(model=Model(adapter=Adapter(rank_stabilised=True)))
    assert experiment_digest(stable) != experiment_digest(Experiment())
    assert not {"rank_stabilised", "tokens"} & to_document(Experiment())["model"]["adapter"].keys()  # type: ignore[call-overload, index, union-attr]
    assert math.isclose(stable.model.adapter.scaling, 16 / math.sqrt(8))
