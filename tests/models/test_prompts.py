"""Vectors before a text: where they stand, what they cost in room, and that padding, caches and other rows do not see them."""

from pathlib import Path

import pytest
import torch
from other_bases import other_base, small_roberta
from tiny import make_language_base, token_rows
from torch import nn
from torch.nn import functional

from fedrelease.adapter_plan import check_adapters
from fedrelease.data.tokens import TokenRows
from fedrelease.errors import ExperimentError, ModelError
from fedrelease.experiment import Adapter, AdapterChange, Experiment, Model, Training
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import TextClassifier, build_classifier, load_state, trainable_state
from fedrelease.models.continuing import continued, next_logits
from fedrelease.models.prompts import positions
from fedrelease.models.tasks import build_model
from fedrelease.server.local_model import initial_state

KINDS = ("prefix", "prompt")


def built(base: Path, kind: str, *, task: str = "text-classification", tokens: int = 3) -> TextClassifier:
    """With large random numbers in its state, so that every one shows."""
    model = Model(task=task, adapter=Adapter(kind=kind, tokens=tokens))
    found = build_model(open_base(str(base), cache=base), model, seed=3)
    assert isinstance(found, TextClassifier)
    numbers = torch.Generator().manual_seed(5)
    state = trainable_state(found)
    load_state(found, {n: t + 0.5 * torch.randn(t.shape, generator=numbers) for n, t in state.items()})
    return found.eval()


@pytest.fixture
def rows(tmp_path: Path, tiny_base: Path) -> TokenRows:
    return token_rows(tmp_path / "rows.safetensors", tiny_base)


def test_a_prompt_of_words_own_vectors_says_what_the_words_say(tmp_path: Path) -> None:
    """A Llama has no tables but that of words: three learned vectors that are words' are these words, then cut off."""
    base = make_language_base(tmp_path / "llama")
    model = built(base, "prompt")
    table = model.encoder.get_input_embeddings().weight  # type: ignore[operator, union-attr]
    with torch.no_grad():
        model.prompt.layer[0].weight.copy_(table[[5, 9, 4]])  # type: ignore[union-attr, operator]
        ids = torch.tensor([[7, 8, 10, 6]])
        whole = torch.tensor([[5, 9, 4, 7, 8, 10, 6]])
        expected = model.encoder(input_ids=whole).last_hidden_state[:, 3:]
        torch.testing.assert_close(model.hidden(ids, torch.ones_like(ids)), expected)


def test_each_layer_of_a_prefix_is_given_its_own_vectors(tiny_base: Path) -> None:
    model, seen = built(tiny_base, "prefix"), []
    for layer in model.layers:
        layer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))  # type: ignore[arg-type, return-value]
    ids = torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]])
    for layer in model.layers:  # our own hook comes after these: look at what attention is given instead
        layer._forward_pre_hooks.clear()
        layer.attention.register_forward_pre_hook(lambda module, given: seen.append(given[0]))  # type: ignore[union-attr, operator, arg-type, return-value]
    model.hidden(ids, (ids > 0).long())
    assert len(seen) == 2 and seen[0].shape == (2, 7, 32)
    for place, hidden in enumerate(seen):
        own = model.prompt.layer[place].weight  # type: ignore[union-attr]
        assert torch.equal(hidden[:, :3], own.expand(2, 3, 32))  # type: ignore[operator]


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_other_rows_change_nothing(kind: str, tiny_base: Path, rows: TokenRows) -> None:
    model = built(tiny_base, kind)
    batch = rows.batch(range(3))
    with torch.no_grad():
        together = model(batch.input_ids, batch.attention_mask)
        longer = model(*(functional.pad(value, (0, 5)) for value in (batch.input_ids, batch.attention_mask)))
        alone = torch.cat([model(*rows.batch([row]).inputs[:2]) for row in range(3)])
    torch.testing.assert_close(longer, together, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_vector_shows_and_no_hook_stays(kind: str, tiny_base: Path, rows: TokenRows) -> None:
    model = built(tiny_base, kind)
    batch = rows.batch(range(3))
    torch.autograd.backward(model(batch.input_ids, batch.attention_mask)[:, 0].sum())
    for vectors in model.prompt.layer:  # type: ignore[union-attr]
        assert bool((vectors.weight.grad.abs().amax(1) > 0).all())  # type: ignore[union-attr, operator]
    assert not any(layer._forward_pre_hooks for layer in model.layers)
    assert model.frozen_layers == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", ["gpt2", "llama"])
def test_a_text_goes_on_with_what_is_kept_as_it_does_when_all_of_it_is_read_again(
    make: str, kind: str, tmp_path: Path
) -> None:
    model = built(make_language_base(tmp_path / make, make), kind, task="causal-lm")
    ids, expected = [7, 8, 10], []
    for _ in range(6):
        given = torch.tensor([[*ids, *expected]])
        with torch.no_grad():
            expected.append(int(next_logits(model, model.hidden(given, torch.ones_like(given))[:, -1]).argmax(1)))
    assert continued(model, ids, tokens=6, end=None) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_and_text_have_room_up_to_the_last_position_and_not_beyond(kind: str, tiny_base: Path) -> None:
    """The tiny base has 64 places."""
    base, model = open_base(str(tiny_base), cache=tiny_base), Model(adapter=Adapter(kind=kind, tokens=24))
    initial_state(base, Experiment(model=model, training=Training(max_length=40)))
    with pytest.raises(ModelError, match=r"24 \+ 41 tokens.*at most 64.*training.max_length to at most 40"):
        initial_state(base, Experiment(model=model, training=Training(max_length=41)))
    with pytest.raises(ModelError, match=r"64 \+ 1 tokens.*model.adapter.tokens to at most 63"):
        built(tiny_base, kind, tokens=64)


def test_a_table_of_places_that_has_one_for_padding_begins_behind_it(tiny_base: Path, tmp_path: Path) -> None:
    """RoBERTa's 66 rows: 0 pads here, so that 65 are left."""
    torch.manual_seed(0)
    base = other_base(tiny_base, tmp_path, small_roberta())
    model = build_classifier(open_base(str(base), cache=tmp_path), Model(), seed=3)
    assert positions(model.encoder) == 65
    with torch.no_grad():
        ids = torch.full((1, 65), 7)
        assert isinstance(model.encoder, nn.Module) and model(ids, torch.ones_like(ids)).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_images_have_no_text_for_vectors_to_stand_before(kind: str) -> None:
    with pytest.raises(ExperimentError, match=r"model\.adapter\.kind.*vectors stand before one text that is read"):
        Model(task="image-classification", adapter=Adapter(kind=kind))


@pytest.mark.parametrize("kind", [*KINDS, "head"])
def test_no_phase_adds_to_what_cannot_grow(kind: str) -> None:
    with pytest.raises(ExperimentError, match=rf'phase\.1\.adapter\.rank is .*left out with kind = "{kind}"'):
        check_adapters(Adapter(kind=kind), [AdapterChange(), AdapterChange(rank=16)])
