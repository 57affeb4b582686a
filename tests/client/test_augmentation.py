"""Rows that are changed at random while a site trains: what changes, how often, and what stays."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedrelease.augment import Augment
from fedrelease.client.aim import aim_of
from fedrelease.client.augmentation import Fill, fill_of, moved_images, without_tokens
from fedrelease.client.draws import Draws
from fedrelease.data.tokens import Batch, TokenRows, load_tokenizer
from fedrelease.data.vectors import VectorBatch
from fedrelease.errors import ModelError
from fedrelease.experiment import Experiment, Training
from fedrelease.models.classifier import TextClassifier

FILL = Fill(token=9, special=torch.tensor([0, 2, 3, 9]))


def draws(rows: int, *, key: str = "k", step: int = 0) -> Draws:
    return Draws(key=key, step=step, rows=torch.arange(rows))


def texts(rows: int, tokens: int) -> Batch:
    ids = torch.full((rows, tokens), 5)
    ids[:, 0], ids[:, -2], ids[:, -1] = 2, 3, 0  # begins with [CLS], ends with [SEP] and one place of padding
    mask = torch.ones(rows, tokens, dtype=torch.int64)
    mask[:, -1] = 0
    return Batch(input_ids=ids, attention_mask=mask, labels=torch.zeros(rows), prefix=torch.zeros(rows, tokens, 4))


def test_the_share_of_tokens_goes_and_special_ones_and_padding_stay() -> None:
    batch = texts(40, 253)
    found = without_tokens(batch, draws(40), share=0.2, fill=FILL)
    inner = found.input_ids[:, 1:-2]  # 10,000 tokens: four deviations of the share are 0.016
    assert set(inner.unique().tolist()) == {5, 9}
    assert float((inner == 9).float().mean()) == pytest.approx(0.2, abs=0.016)
    for place in (0, -2, -1):
        assert torch.equal(found.input_ids[:, place], batch.input_ids[:, place])
    assert found.prefix is None and torch.equal(found.attention_mask, batch.attention_mask)


def test_what_a_row_loses_does_not_depend_on_how_far_others_pad_it() -> None:
    long, short = texts(3, 30), texts(3, 12)
    lost = [without_tokens(batch, draws(3), share=0.5, fill=FILL).input_ids == 9 for batch in (long, short)]
    assert torch.equal(lost[0][:, 1:10], lost[1][:, 1:10])


def test_a_row_loses_other_tokens_in_another_step_and_round_and_than_its_neighbour() -> None:
    def lost(given: Draws) -> Tensor:
        return without_tokens(texts(2, 60), given, share=0.5, fill=FILL).input_ids == 9

    first = lost(draws(2))
    assert torch.equal(first, lost(draws(2)))
    assert not torch.equal(first[0], first[1])
    for other in (draws(2, step=1), draws(2, key="next round")):
        assert not torch.equal(first, lost(other))


def test_a_base_without_a_mask_takes_its_unknown_token(tiny_base: Path) -> None:
    found = fill_of(load_tokenizer(tiny_base))
    assert (found.token, found.special.tolist()) == (1, [0, 1, 2, 3])


def test_a_tokenizer_without_both_is_refused(tiny_base: Path) -> None:
    bare = load_tokenizer(tiny_base)
    bare.unk_token = None  # type: ignore[attr-defined]  # of transformers
    with pytest.raises(ModelError, match="nothing can take the place"):
        fill_of(bare)


def images(rows: int) -> VectorBatch:
    """Two colours of 3 x 4 pixels, all different and none 0."""
    return VectorBatch(features=(torch.arange(24.0) + 1).expand(rows, 24), labels=torch.zeros(rows))


def changed(rows: int, augment: Augment) -> Tensor:
    return moved_images(images(rows), draws(rows), (2, 3, 4), augment).features.view(rows, 2, 3, 4)


def test_half_of_the_images_are_mirrored_in_all_colours() -> None:
    image = images(1).features.view(2, 3, 4)
    found = changed(400, Augment(flip=True))
    mirrored = [torch.equal(one, image.flip(-1)) for one in found]
    assert all(one or torch.equal(row, image) for one, row in zip(mirrored, found, strict=True))
    assert sum(mirrored) == pytest.approx(200, abs=40)  # four deviations


def test_images_move_by_every_distance_up_to_the_farthest_and_what_comes_in_is_black() -> None:
    image, seen = images(1).features.view(2, 3, 4), set()
    for found in changed(300, Augment(shift=1)):
        down, right = next(
            (down, right)
            for down in (-1, 0, 1)
            for right in (-1, 0, 1)
            if torch.equal(found, moved_by_hand(image, down, right))
        )
        seen.add((down, right))
    assert len(seen) == 9


def moved_by_hand(image: Tensor, down: int, right: int) -> Tensor:
    """Pixel by pixel."""
    found = torch.zeros_like(image)
    for row in range(3):
        for column in range(4):
            if 0 <= row + down < 3 and 0 <= column + right < 4:
                found[:, row + down, column + right] = image[:, row, column]
    return found


def test_without_augment_rows_are_as_they_are(model: TextClassifier, rows: TokenRows) -> None:
    assert aim_of(Experiment(), model, rows, labels=("a", "b"), fill=None).change is None
    dropped = replace(Experiment(), training=Training(augment=Augment(tokens=0.5)))
    change = aim_of(dropped, model, rows, labels=("a", "b"), fill=FILL).change
    assert change is not None
    assert not torch.equal(change(rows.batch([0, 1]), draws(2)).inputs[0], rows.batch([0, 1]).inputs[0])


def test_a_site_that_does_not_know_its_tokenizer_is_refused(model: TextClassifier, rows: TokenRows) -> None:
    dropped = replace(Experiment(), training=Training(augment=Augment(tokens=0.5)))
    with pytest.raises(ModelError, match="takes the place of a token"):
        aim_of(dropped, model, rows, labels=("a", "b"), fill=None)
