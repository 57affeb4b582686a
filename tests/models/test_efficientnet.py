"""EfficientNet-lite: its padding by hand, its place among bases, and the head alone on it, with and without privacy."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from other_bases import lite_base
from torch import nn

from fedrelease.cache import cache_folder
from fedrelease.client.selftest import check_gradients
from fedrelease.client.training import Job, Seeds, train
from fedrelease.data.tokens import save_rows
from fedrelease.data.vectors import VectorRows
from fedrelease.errors import ModelError
from fedrelease.experiment import Adapter, Model, Training
from fedrelease.fetch import fetch
from fedrelease.models import converted as module
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import trainable_state
from fedrelease.models.converted import CONVERSIONS, converted
from fedrelease.models.efficientnet import EfficientNetLite, SameConv2d, open_lite
from fedrelease.models.images import ImageClassifier, square
from fedrelease.models.norms import FrozenNorm
from fedrelease.models.prefix import with_prefix
from fedrelease.models.tasks import build_model

HEAD = Model(task="image-classification", labels=("a", "b", "c"), adapter=Adapter(kind="head"))


def model_on(folder: Path, model: Model = HEAD) -> ImageClassifier:
    base = lite_base(folder) if not (folder / "lite").exists() else folder / "lite"
    built = build_model(open_base(str(base), cache=folder), model, seed=3)
    assert isinstance(built, ImageClassifier)
    return built


def rows_of(folder: Path, width: int = 3 * 16 * 16) -> VectorRows:
    features = torch.rand(12, width, generator=torch.Generator().manual_seed(1))
    save_rows(folder / "rows.safetensors", {"features": features, "labels": torch.arange(12) % 3})
    return VectorRows(folder / "rows.safetensors")


def test_same_padding_puts_the_odd_pixel_below_and_to_the_right() -> None:
    layer = SameConv2d(1, 1, 3, stride=2, bias=False)
    nn.init.ones_(layer.weight)
    image = torch.arange(1.0, 17.0).view(1, 1, 4, 4)
    # four places: sums of 3 x 3 from pixel (0, 0), (0, 2), (2, 0), (2, 2), of what there is
    assert layer(image).flatten().tolist() == [54.0, 45.0, 72.0, 54.0]


def test_lite0_has_the_layers_and_weights_of_the_paper() -> None:
    with torch.device("meta"):
        network = EfficientNetLite()
    assert len(network.blocks) == network.config.num_hidden_layers == 16
    assert sum(value.numel() for value in network.parameters()) == 3_371_008  # 4,652,008 with ImageNet's last layer
    assert not [layer for layer in network.modules() if "Sig" in type(layer).__name__]


def test_pixels_become_vectors_of_places_that_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    network = open_lite(lite_base(tmp_path))
    seen = network(pixel_values=torch.rand(2, 3, 16, 16)).last_hidden_state
    assert seen.shape == (2, 12, 4, 4)
    model = model_on(tmp_path).train()
    assert [layer for layer in model.modules() if isinstance(layer, FrozenNorm)]
    features = torch.rand(2, 768)
    torch.testing.assert_close(model.seen(features)[:1], model.seen(features[:1]))


def test_with_the_head_alone_nothing_of_the_base_is_trained_or_sent(tmp_path: Path) -> None:
    model = model_on(tmp_path)
    assert {name: tuple(value.shape) for name, value in trainable_state(model).items()} == {
        "head.bias": (3,),
        "head.weight": (3, 12),
    }
    check_gradients(model, rows_of(tmp_path))


def test_vectors_of_images_are_kept_where_the_head_alone_is_trained(tmp_path: Path) -> None:
    model, rows = model_on(tmp_path), rows_of(tmp_path)
    carried = with_prefix(model, rows, key="x")
    assert isinstance(carried, VectorRows)
    some = torch.tensor([7, 2])
    for kept in (carried.batch(some), carried.chosen(some).batch([0, 1])):
        assert kept.vectors is not None
        torch.testing.assert_close(model(*kept.inputs), model(*rows.batch(some).inputs))
    assert with_prefix(model_on(tmp_path, replace(HEAD, adapter=Adapter(kind="full"))), rows, key="x") is rows
    group = with_prefix(model_on(tmp_path, replace(HEAD, batch_norm="group")), rows, key="x")
    assert not torch.equal(group.batch(some).inputs[1], carried.batch(some).inputs[1])  # type: ignore[arg-type, misc]


def test_training_on_kept_vectors_ends_where_training_on_images_ends(tmp_path: Path) -> None:
    model, rows = model_on(tmp_path), rows_of(tmp_path)

    def ended(given: VectorRows) -> torch.Tensor:
        model.draw(3)
        seeds = Seeds(key="k", noise="seeded")
        job = Job(rows=given, training=Training(batch_size=4), plan=None, start=0, steps=5, total=5, seeds=seeds)
        train(model, job)
        return trainable_state(model)["head.weight"]

    carried = with_prefix(model, rows, key="x")
    assert isinstance(carried, VectorRows)
    torch.testing.assert_close(ended(carried), ended(rows))


def test_small_square_images_are_stretched_and_grey_becomes_colours(tmp_path: Path) -> None:
    model = model_on(tmp_path)
    grey = torch.full((1, 64), 0.25)
    torch.testing.assert_close(model(grey), model(torch.full((1, 768), 0.25)))
    assert [square(width) for width in (784, 3 * 25, 20)] == [(1, 28, 28), (3, 5, 5), None]
    with pytest.raises(ModelError, match="20 numbers a row"):
        model(torch.zeros(1, 20))


def test_factors_are_refused_and_private_training_of_every_weight_too(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match='no linear layer for an adapter.*kind = "head"'):
        model_on(tmp_path, replace(HEAD, adapter=Adapter()))
    whole = model_on(tmp_path, replace(HEAD, adapter=Adapter(kind="full")))
    with pytest.raises(ModelError, match='no gradient by example.*conv_stem.*or "head"'):
        check_gradients(whole, rows_of(tmp_path))


def test_weights_that_do_not_fit_are_refused_with_their_folder(tmp_path: Path) -> None:
    save_rows(lite_base(tmp_path) / "model.safetensors", {"conv_stem.weight": torch.zeros(2)})
    with pytest.raises(ModelError, match="does not load"):
        model_on(tmp_path)


def test_a_file_of_another_sha256_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(torch, "load", opened)
    (tmp_path / CONVERSIONS["efficientnet-lite0"].file).write_bytes(b"something else")
    with pytest.raises(ModelError, match="is not the pinned one"):
        converted("efficientnet-lite0", tmp_path, tmp_path)
    assert module.CONVERSIONS["efficientnet-lite0"].sha256[:8] == "57934424"


@pytest.mark.slow
def test_efficientnet_lite0_comes_out_as_it_is_pinned_and_tells_a_flower_from_a_temple(tmp_path: Path) -> None:
    from sklearn.datasets import load_sample_images

    folder = converted("efficientnet-lite0", fetch("efficientnet-lite0", cache=cache_folder()), tmp_path)
    base = open_base(str(folder), cache=tmp_path)
    model = build_model(base, HEAD, seed=1)
    assert isinstance(model, ImageClassifier)
    photos = [torch.tensor(photo).permute(2, 0, 1)[None] / 255 for photo in load_sample_images().images]
    halves = [photo[..., start : start + 300] for photo in photos for start in (0, 300)]  # two of each
    small = [nn.functional.interpolate(half, (224, 224), mode="bilinear").flatten(1) for half in halves]
    with torch.no_grad():
        seen = nn.functional.normalize(model.seen(torch.cat(small)))
    alike = seen @ seen.T
    assert min(alike[0, 1], alike[2, 3]) > max(alike[0, 2], alike[0, 3], alike[1, 2], alike[1, 3])
