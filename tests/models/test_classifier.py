"""The classifier: what is trained, how it starts, and that padding never counts."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from other_bases import other_base, small_gpt2, small_llama
from torch import Tensor
from transformers import T5Config, T5Model, ViTConfig, ViTModel

from fedrelease.errors import ModelError
from fedrelease.experiment import Adapter, Model
from fedrelease.models.bases import Base, Pooling, open_base
from fedrelease.models.classifier import (
    TextClassifier,
    build_classifier,
    canonical_name,
    load_state,
    pool,
    trainable_state,
)

LORA = Model(adapter=Adapter(rank=2, layers="last:1"))


@pytest.fixture
def base(tiny_base: Path) -> Base:
    return open_base(str(tiny_base), cache=tiny_base)


@pytest.fixture
def model(base: Base) -> TextClassifier:
    return build_classifier(base, LORA, seed=7)


def shaken(model: TextClassifier) -> TextClassifier:
    numbers = torch.Generator().manual_seed(1)
    load_state(
        model,
        {name: 0.3 * torch.randn(value.shape, generator=numbers) for name, value in trainable_state(model).items()},
    )
    return model


def rows(*lengths: int, width: int | None = None) -> tuple[Tensor, Tensor]:
    width = width or max(lengths)
    ids = torch.arange(len(lengths) * width).reshape(len(lengths), width) % 20 + 4
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    return ids * mask, mask


def test_only_adapter_and_head_are_trained(model: TextClassifier) -> None:
    assert sorted(trainable_state(model)) == [
        "encoder.layer.1.attention.self.query.lora_A",
        "encoder.layer.1.attention.self.query.lora_B",
        "encoder.layer.1.attention.self.value.lora_A",
        "encoder.layer.1.attention.self.value.lora_B",
        "head.bias",
        "head.weight",
    ]
    shapes = {name.rsplit(".", 1)[-1]: tuple(value.shape) for name, value in trainable_state(model).items()}
    assert shapes == {"lora_A": (2, 32), "lora_B": (32, 2), "bias": (2,), "weight": (2, 32)}


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("encoder.encoder.layer.0.q.lora_A.default.weight", "encoder.layer.0.q.lora_A"),
        ("encoder.base_layer.x.weight", "x.weight"),
        ("head.weight", "head.weight"),
    ],
)
def test_canonical_names_hold_nothing_of_pefts_wrapping(name: str, canonical: str) -> None:
    assert canonical_name(name) == canonical


@pytest.mark.parametrize(
    ("layers", "targets", "count"),
    [
        ("last:1", "attention", 1 * 2),
        ("last:2", "attention", 2 * 2),
        ("all", "attention", 2 * 2),
        ("last:1", "all-linear", 1 * 6),  # query, key, value and three dense
        ("all", "all-linear", 2 * 6),
        ("all", "key", 2),
        ("all", "key,value", 4),
    ],
)
def test_layers_and_targets_decide_where_factors_go(base: Base, layers: str, targets: str, count: int) -> None:
    adapter = Adapter(rank=2, layers=layers, targets=targets)
    state = trainable_state(build_classifier(base, Model(adapter=adapter), seed=0))
    assert len(state) == 2 * count + 2
    assert not [name for name in state if "pooler" in name]
    if layers == "last:1":
        assert not [name for name in state if ".0." in name]


def test_more_layers_than_the_base_has_are_refused(base: Base) -> None:
    with pytest.raises(ModelError, match="at most last:2 for this base"):
        build_classifier(base, Model(adapter=Adapter(layers="last:3")), seed=0)


def test_modules_that_the_base_does_not_have_are_refused_with_those_it_has(base: Base) -> None:
    with pytest.raises(ModelError, match=r"no such modules.*names some of dense, key, query, value"):
        build_classifier(base, Model(adapter=Adapter(layers="all", targets="q_proj")), seed=0)


def test_the_fresh_adapter_changes_nothing_and_the_fresh_head_prefers_no_label(
    base: Base, model: TextClassifier
) -> None:
    ids, mask = rows(5, 9)
    wide = build_classifier(base, replace(LORA, adapter=Adapter(rank=4, layers="all")), seed=1).eval()
    hidden = [m.encoder(input_ids=ids, attention_mask=mask).last_hidden_state for m in (model.eval(), wide)]
    torch.testing.assert_close(hidden[0], hidden[1], rtol=0, atol=0)
    assert model(ids, mask).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_the_same_seed_gives_the_same_state_and_another_seed_another(base: Base, model: TextClassifier) -> None:
    torch.manual_seed(99)
    again, other = (trainable_state(build_classifier(base, LORA, seed=seed)) for seed in (7, 8))
    first = trainable_state(model)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["encoder.layer.1.attention.self.query.lora_A"], other[sorted(other)[0]])


def test_the_state_is_a_copy_in_order_of_names(model: TextClassifier) -> None:
    state = trainable_state(model)
    state["head.bias"] += 1
    assert list(state) == sorted(state)
    assert trainable_state(model)["head.bias"].tolist() == [0.0, 0.0]
    assert {value.dtype for value in state.values()} == {torch.float32}


def test_a_state_that_is_loaded_is_the_state(model: TextClassifier) -> None:
    wanted = {name: torch.full_like(value, 0.25) for name, value in trainable_state(model).items()}
    load_state(model, wanted)
    assert all(torch.equal(value, wanted[name]) for name, value in trainable_state(model).items())


def test_a_state_with_other_names_is_refused(model: TextClassifier) -> None:
    state = trainable_state(model)
    for wrong in ({**state, "more": torch.zeros(1)}, {name: state[name] for name in list(state)[1:]}, {}):
        with pytest.raises(ModelError, match="another adapter"):
            load_state(model, wrong)


def test_a_state_with_another_shape_is_refused_and_changes_nothing(model: TextClassifier) -> None:
    before = trainable_state(model)
    wrong = {name: value + 1 for name, value in before.items()}
    with pytest.raises(ModelError, match=r"head.weight has another shape"):
        load_state(model, {**wrong, "head.weight": torch.zeros(2, 31)})
    assert all(torch.equal(value, before[name]) for name, value in trainable_state(model).items())


@pytest.mark.parametrize("mode", ["mean", "first", "max", "last"])
@pytest.mark.parametrize("normalise", [False, True])
def test_a_row_in_a_padded_batch_has_the_logits_that_it_has_alone(base: Base, mode: str, normalise: bool) -> None:
    model = shaken(
        build_classifier(replace(base, pooling=Pooling(mode=mode, normalise=normalise)), LORA, seed=7)
    ).eval()
    ids, mask = rows(3, 11, 6)
    together = model(ids, mask)
    for row, length in enumerate((3, 11, 6)):
        alone = model(ids[row : row + 1, :length], mask[row : row + 1, :length])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("mode", "vector"), [("mean", [2.0, -3.0]), ("first", [1.0, -4.0]), ("max", [3.0, -2.0]), ("last", [3.0, -2.0])]
)
def test_pooling_looks_at_tokens_and_never_at_padding(mode: str, vector: list[float]) -> None:
    hidden = torch.tensor([[[1.0, -4.0], [3.0, -2.0], [99.0, 99.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert pool(hidden, mask, Pooling(mode=mode)).tolist() == [vector]


def test_a_normalised_vector_has_length_one() -> None:
    vector = pool(torch.tensor([[[3.0, 4.0]]]), torch.tensor([[1]]), Pooling(normalise=True))
    assert vector.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]]


def test_training_mode_drops_nothing_out(base: Base, tiny_base: Path, tmp_path: Path) -> None:
    """BERT's rate is 0.1 in modules; Llama hands a plain number to its attention function."""
    folder = other_base(tiny_base, tmp_path, small_llama())
    for each in (base, open_base(str(folder), cache=tmp_path)):
        model = shaken(build_classifier(each, LORA, seed=7)).train()
        assert torch.equal(model(*rows(5, 9)), model(*rows(5, 9)))


def test_bases_that_keep_their_layers_at_the_top_can_be_adapted_by_layer(tiny_base: Path, tmp_path: Path) -> None:
    for number, (base, names) in enumerate(
        [
            (small_llama(), ["layers.1.self_attn.q_proj", "layers.1.self_attn.v_proj"]),
            (small_gpt2(), ["h.1.attn.c_attn"]),
        ]
    ):
        folder = other_base(tiny_base, tmp_path / str(number), base)
        model = build_classifier(open_base(str(folder), cache=tmp_path), LORA, seed=7)
        factors = [f"{name}.lora_{factor}" for name in names for factor in "AB"]
        assert set(trainable_state(model)) == {*factors, "head.bias", "head.weight"}
        assert model(*rows(3)).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("kind", ["vision", "encoder-decoder"])
def test_a_base_that_gives_no_token_vectors_of_a_text_is_refused(tiny_base: Path, tmp_path: Path, kind: str) -> None:
    if kind == "vision":
        model = ViTModel(
            ViTConfig(
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=32,
                image_size=32,
                patch_size=16,
            )
        )
    else:
        model = T5Model(T5Config(vocab_size=24, d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2))
    folder = other_base(tiny_base, tmp_path, model)
    with pytest.raises(ModelError, match=r"(does not fit the task|does not read texts).*minilm"):
        build_classifier(open_base(str(folder), cache=tmp_path), LORA, seed=0)


def test_weights_that_are_damaged_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"does not load.*Try:"):
        build_classifier(open_base(str(folder), cache=tmp_path), LORA, seed=0)


def test_code_of_the_bases_own_is_never_run(tiny_base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    with pytest.raises(ModelError, match="does not load"):
        build_classifier(open_base(str(folder), cache=tmp_path), LORA, seed=0)
    assert not (tmp_path / "ran").exists()
