"""Encoders that tell hidden tokens: which are hidden, losses, gradients by example, heads of a base's own, what is trained."""

from pathlib import Path

import pytest
import torch
from tiny import WORDS, make_base, make_masked_base, masked_rows
from transformers import AutoModelForMaskedLM

from fedrelease.client.selftest import check_gradients
from fedrelease.data.masks import tokenise_masked
from fedrelease.data.tokens import IGNORED, TokenRows, load_tokenizer
from fedrelease.errors import DataError, ModelError
from fedrelease.experiment import Adapter, Model
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import TextClassifier, load_state, trainable_state
from fedrelease.models.evaluation import judge, look
from fedrelease.models.masked_model import likely
from fedrelease.models.prefix import with_prefix
from fedrelease.models.tasks import build_model, task_of

LABELS = ("wrong", "right")
ADAPTERS = {
    "attention": Adapter(rank=2, layers="last:1"),
    "all-linear": Adapter(rank=2, layers="all", targets="all-linear"),
    "core": Adapter(kind="lora-sb", rank=2, layers="all"),
}
MASK = len(WORDS)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("masked")
    return {kind: make_masked_base(folder / kind, kind) for kind in ("bert", "headless", "roberta")}


def built(base: Path, adapter: Adapter | None = None) -> TextClassifier:
    model = Model(task="masked-lm", adapter=adapter or ADAPTERS["attention"])
    found = build_model(open_base(str(base), cache=base), model, seed=3)
    assert isinstance(found, TextClassifier)
    return found


def shaken(model: TextClassifier) -> TextClassifier:
    numbers = torch.Generator().manual_seed(5)
    load_state(model, {k: v + 0.1 * torch.randn(v.shape, generator=numbers) for k, v in trainable_state(model).items()})
    return model


@pytest.fixture
def rows(tmp_path: Path, bases: dict[str, Path]) -> TokenRows:
    return masked_rows(tmp_path / "rows.safetensors", bases["bert"])


def test_a_seventh_of_a_rows_own_tokens_is_hidden_and_always_the_same(bases: dict[str, Path]) -> None:
    tokenizer, text = load_tokenizer(bases["bert"]), " ".join(["film"] * 20)
    first, second = (tokenise_masked([text, "a book"], 1, tokenizer, 64) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    long, short = first["targets"][:22], first["targets"][22:]
    assert (long != IGNORED).sum() == 3 and (short != IGNORED).sum() == 1  # 0.15 * 20 = 3; of two tokens one
    assert long[0] == long[-1] == short[0] == short[-1] == IGNORED  # special tokens are never hidden


def test_of_the_hidden_tokens_eight_in_ten_are_masks_and_one_in_ten_stays(bases: dict[str, Path]) -> None:
    texts = [f"{'film ' * 40}{'book ' * number}" for number in range(1, 21)]
    told = tokenise_masked(texts, 1, load_tokenizer(bases["bert"]), 64)
    hidden = told["targets"] != IGNORED
    seen, true = told["input_ids"][hidden], told["targets"][hidden]
    masks, same = float((seen == MASK).double().mean()), float((seen == true).double().mean())
    assert int(hidden.sum()) > 100
    assert masks == pytest.approx(0.8, abs=0.1) and same == pytest.approx(0.1, abs=0.08)
    assert torch.equal(told["input_ids"][~hidden], told["input_ids"][~hidden].clamp(max=MASK - 1))


def test_long_texts_are_cut_into_pieces_with_special_tokens_of_their_own(bases: dict[str, Path]) -> None:
    told = tokenise_masked(["the film was good and warm"], 1, load_tokenizer(bases["bert"]), 5)
    assert told["offsets"].tolist() == [0, 5, 10]
    assert told["input_ids"][[0, 5]].tolist() == [2, 2] and told["input_ids"][[4, 9]].tolist() == [3, 3]
    with pytest.raises(DataError, match="no text has a token"):
        tokenise_masked([""], 1, load_tokenizer(bases["bert"]), 5)


def test_a_base_without_a_mask_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no token that hides another one"):
        tokenise_masked(["a film"], 1, load_tokenizer(make_base(tmp_path / "plain")), 16)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_base_with_its_own_head_has_the_losses_of_transformers_and_trains_the_adapter_alone(
    bases: dict[str, Path], rows: TokenRows, kind: str
) -> None:
    whole, model = AutoModelForMaskedLM.from_pretrained(bases[kind]), built(bases[kind])
    assert all("lora_" in name for name in trainable_state(model))
    batch = rows.batch([2])
    with torch.no_grad():
        ours = task_of(model).losses(model(*batch.inputs), batch)
        theirs = whole(input_ids=batch.input_ids, labels=batch.targets).loss
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


def test_a_base_without_a_head_trains_one_layer_from_the_identity(bases: dict[str, Path], rows: TokenRows) -> None:
    model, batch = built(bases["headless"]), rows.batch([2])
    state = trainable_state(model)
    assert torch.equal(state["turn.weight"], torch.eye(32)) and state["turn.bias"].abs().sum() == 0
    assert batch.targets is not None
    with torch.no_grad():
        table = model.encoder.get_parameter("embeddings.word_embeddings.weight")
        logits = model.vectors(batch.input_ids, batch.attention_mask) @ table.T
        theirs = torch.nn.functional.cross_entropy(logits[0], batch.targets[0])
        ours = task_of(model).losses(model(*batch.inputs), batch)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("kind", ["bert", "headless"])
def test_gradients_by_example_are_those_of_one_row_at_a_time_through_plain_layers(
    bases: dict[str, Path], rows: TokenRows, kind: str, adapter: str
) -> None:
    check_gradients(built(bases[kind], ADAPTERS[adapter]), rows)


def test_what_is_kept_of_the_frozen_layers_changes_nothing_but_rounding(
    bases: dict[str, Path], rows: TokenRows
) -> None:
    model = shaken(built(bases["headless"]))
    kept = with_prefix(model, rows, key="base")
    assert kept.batch([0]).prefix is not None
    torch.testing.assert_close(judge(model, kept, LABELS).loss, judge(model, rows, LABELS).loss, atol=1e-6, rtol=1e-5)


def test_an_item_is_a_hidden_token_and_metrics_speak_of_nothing_else(bases: dict[str, Path], rows: TokenRows) -> None:
    model = built(bases["bert"])
    told, hidden = look(model, rows, LABELS), sum(int((rows.batch([r]).inputs[-1] != IGNORED).sum()) for r in range(24))
    assert told.matrix.sum() == hidden and told.matrix[0].sum() == 0
    assert task_of(model).metrics(told.matrix, told.sums).keys() == {"accuracy", "perplexity", "examples"}


def test_every_weight_without_privacy_includes_what_turns_vectors_and_the_table_once(bases: dict[str, Path]) -> None:
    state = trainable_state(built(bases["headless"], Adapter(kind="full")))
    assert {"embeddings.word_embeddings.weight", "turn.weight"} <= state.keys() and "head.weight" not in state


def test_the_likely_words_of_a_mask_are_those_of_the_logits(bases: dict[str, Path]) -> None:
    whole, ids = AutoModelForMaskedLM.from_pretrained(bases["bert"]), torch.tensor([[2, 14, MASK, 16, 3]])
    with torch.no_grad():
        shares = whole(input_ids=ids).logits[0, 2].softmax(0)
    (found,) = likely(built(bases["bert"]), ids, MASK, count=3)
    assert [word for word, _ in found] == shares.topk(3).indices.tolist()
    assert [score for _, score in found] == pytest.approx(shares.topk(3).values.tolist(), rel=1e-4)
