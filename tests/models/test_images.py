"""Networks on images: gradients by example against one at a time, BatchNorm out of the way, what is drawn, what is refused."""

from pathlib import Path

import pytest
import torch
from other_bases import vision_base
from torch import Tensor, nn
from torch.nn import functional

from fedrelease.client.selftest import check_gradients
from fedrelease.data.tokens import save_rows
from fedrelease.data.vectors import VectorRows
from fedrelease.errors import ModelError
from fedrelease.experiment import Adapter, Model
from fedrelease.models.bases import open_base
from fedrelease.models.bookkeeping import book_keeping, form_sums, gradient_lengths
from fedrelease.models.classifier import load_state, trainable_state
from fedrelease.models.images import ImageClassifier, build_image_model
from fedrelease.models.norms import FrozenNorm, without_batch_norm
from fedrelease.models.tasks import build_model

LABELS = ("a", "b", "c")
FULL = Model(task="image-classification", labels=LABELS, adapter=Adapter(kind="full"))
LORA = Model(task="image-classification", labels=LABELS, adapter=Adapter(rank=2, layers="all"))
CNN = "cnn:1x8x12-4-6"


def images(path: Path, width: int, *, count: int = 6) -> VectorRows:
    numbers = torch.Generator().manual_seed(1)
    features = torch.rand(count, width, generator=numbers)
    save_rows(path / "images.safetensors", {"features": features, "labels": torch.arange(count) % len(LABELS)})
    return VectorRows(path / "images.safetensors")


def shaken(model: nn.Module) -> nn.Module:
    numbers = torch.Generator().manual_seed(2)
    load_state(model, {n: t + 0.2 * torch.randn(t.shape, generator=numbers) for n, t in trainable_state(model).items()})
    return model.eval()


def loss(model: nn.Module, rows: VectorRows, places: list[int]) -> Tensor:
    batch = rows.batch(places)
    return functional.cross_entropy(model(*batch.inputs), batch.labels, reduction="sum")


def test_a_small_network_has_the_layers_that_its_name_says(tmp_path: Path) -> None:
    model = build_model(open_base(CNN, cache=tmp_path), FULL, seed=3)
    shapes = {name: tuple(value.shape) for name, value in trainable_state(model).items()}
    assert shapes["conv1.weight"] == (4, 1, 3, 3)
    assert shapes["conv2.weight"] == (6, 4, 3, 3)
    assert shapes["head.weight"] == (3, 6 * (8 // 4) * (12 // 4))


def test_what_is_drawn_follows_from_the_seed_and_the_head_starts_from_zero(tmp_path: Path) -> None:
    base = open_base(CNN, cache=tmp_path)
    one, same, other = (trainable_state(build_model(base, FULL, seed=seed)) for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])
    assert not one["head.weight"].any()


@pytest.mark.parametrize("make", ["cnn", "resnet"])
def test_lengths_and_sums_equal_those_of_one_example_at_a_time(make: str, tmp_path: Path) -> None:
    """Expected by torch's own layers, row by row; found by ours, in one pass, with scales 0, 1, 2 ..."""
    folder = CNN if make == "cnn" else str(vision_base(tmp_path, "resnet"))
    wanted = FULL if make == "cnn" else Model(**{**vars(FULL), "batch_norm": "group"})
    model = shaken(build_image_model(open_base(folder, cache=tmp_path), wanted, seed=3))
    assert isinstance(model, ImageClassifier)
    rows = images(tmp_path, model.width)
    trained = [value for value in model.parameters() if value.requires_grad]
    singly = [torch.autograd.grad(loss(model, rows, [row]), trained) for row in range(6)]
    scales = torch.arange(6.0)
    with book_keeping(model) as books:
        torch.autograd.backward(loss(model, rows, list(range(6))))
        lengths = gradient_lengths(books)
        form_sums(books, scales)
        for place, parameter in enumerate(trained):
            expected = sum(scale * one[place] for scale, one in zip(scales, singly, strict=True))
            found = parameter.summed_grad  # type: ignore[attr-defined]  # Opacus' name
            assert float((found - expected).norm()) <= 1e-4 * float(expected.norm()) + 1e-5  # type: ignore[union-attr]
    wholes = torch.stack([torch.cat([part.flatten() for part in one]).norm() for one in singly])
    assert torch.allclose(lengths, wholes, rtol=1e-4)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_check_before_private_training_passes(kind: str, tmp_path: Path) -> None:
    base = str(vision_base(tmp_path, "vit")) if kind == "lora" else CNN
    model = build_model(open_base(base, cache=tmp_path), LORA if kind == "lora" else FULL, seed=3)
    check_gradients(model, images(tmp_path, model.width))


@pytest.mark.parametrize(("kind", "numbers"), [("bottleneck", 162), ("head", 0), ("layers", 6_464), ("norms", 128)])
def test_a_vision_transformer_trains_with_each_kind_that_its_layers_can_have(
    kind: str, numbers: int, tmp_path: Path
) -> None:
    """32 wide: 4 x 32 in a layer's norms, 6 x (32 x 32 + 32) more in all of it; 128 + 2 + 32 of rank 2; 3 x 33 in the head."""
    adapter = Adapter(kind=kind, rank=2, layers="last:1")
    model = Model(task="image-classification", labels=LABELS, adapter=adapter)
    built = build_model(open_base(str(vision_base(tmp_path, "vit")), cache=tmp_path), model, seed=3)
    assert sum(tensor.numel() for tensor in trainable_state(built).values()) == numbers + 99
    check_gradients(built, images(tmp_path, built.width))


def test_a_frozen_batch_norm_gives_what_it_gives_in_evaluation() -> None:
    norm = nn.BatchNorm2d(5).eval()
    with torch.no_grad():
        for value in (norm.weight, norm.bias, norm.running_mean):
            value.normal_()  # type: ignore[union-attr]
        norm.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    x = torch.randn(3, 5, 4, 4)
    assert torch.allclose(FrozenNorm(norm)(x), norm(x), atol=1e-5)


@pytest.mark.parametrize("how", ["frozen", "group"])
def test_without_batch_norm_no_row_sees_another_and_nothing_is_updated(how: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).train()
    assert without_batch_norm(model, how) == 1
    x = torch.randn(3, 1, 6, 6)
    assert torch.allclose(model(x)[:1], model(x[:1]), atol=1e-6)
    assert not [name for name, _ in model.named_buffers() if "running" in name]


def test_a_resnet_without_a_choice_trains_no_batch_norm(tmp_path: Path) -> None:
    model = build_model(open_base(str(vision_base(tmp_path, "resnet")), cache=tmp_path), FULL, seed=3)
    kinds = {type(module) for module in model.modules()}
    assert FrozenNorm in kinds
    assert nn.BatchNorm2d not in kinds
    assert not [name for name in trainable_state(model) if "normalization" in name]


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    model = build_model(open_base(CNN, cache=tmp_path), FULL, seed=3)
    with pytest.raises(ModelError, match="784 numbers a row.*1x8x12"):
        model(torch.zeros(2, 784))


@pytest.mark.parametrize(
    ("base", "model", "said"),
    [
        (CNN, LORA, "nothing to adapt.*full"),
        ("cnn:1x8x8-4-4-4-4", FULL, "too small for so many layers.*at most 3 times"),
    ],
)
def test_what_does_not_go_together_is_refused(base: str, model: Model, said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=said):
        build_model(open_base(base, cache=tmp_path), model, seed=3)


def test_a_base_that_reads_texts_sees_no_images(tiny_base: Path) -> None:
    with pytest.raises(ModelError, match="does not see images.*cnn:"):
        build_model(open_base(str(tiny_base), cache=tiny_base), FULL, seed=3)


def test_a_base_that_sees_images_reads_no_texts(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not read texts"):
        build_model(open_base(str(vision_base(tmp_path, "vit")), cache=tmp_path), Model(), seed=3)


@pytest.mark.parametrize("ref", [CNN, "mlp:12-4"])
def test_a_base_that_is_only_a_description_is_drawn_anew_whatever_was_trained(ref: str, tmp_path: Path) -> None:
    """So a model that stays in memory can give a first state; one with pretrained weights that were trained cannot."""
    base = open_base(ref, cache=tmp_path)
    model = build_model(base, FULL, seed=3)
    first = trainable_state(model)
    shaken(model)
    model.draw(3)
    assert base.is_drawn
    assert all(torch.equal(value, first[name]) for name, value in trainable_state(model).items())


def test_a_base_with_weights_of_its_own_is_not_drawn(tmp_path: Path) -> None:
    base = open_base(str(vision_base(tmp_path, "vit")), cache=tmp_path)
    model = build_model(base, Model(**{**vars(FULL)}), seed=3)
    first = trainable_state(model)
    shaken(model)
    model.draw(3)
    assert not base.is_drawn
    assert any(not torch.equal(value, first[name]) for name, value in trainable_state(model).items())
