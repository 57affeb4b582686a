"""Language models: the last layer in slices, what is trained, what is kept of the frozen layers, and how a text goes on."""

import math
from pathlib import Path

import pytest
import torch
from tiny import language_rows, make_language_base
from transformers import AutoModelForCausalLM

from fedrelease.data.targets import tokenise_next
from fedrelease.data.tokens import TokenRows, load_tokenizer
from fedrelease.errors import DataError, ExperimentError, ModelError
from fedrelease.experiment import Adapter, Experiment, Model, Privacy
from fedrelease.experiment_sections import RIGHT
from fedrelease.models import vocabulary
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import TextClassifier, load_state, trainable_state
from fedrelease.models.continuing import continued
from fedrelease.models.evaluation import judge, look
from fedrelease.models.prefix import with_prefix
from fedrelease.models.tasks import build_model, task_of
from fedrelease.models.vocabulary import PlainVocabularyHead, VocabularyHead, told

LABELS = ("wrong", "right")
KINDS = ("gpt2", "llama")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("language")
    untied = make_language_base(folder / "untied", tied=False)
    return {"untied": untied, **{kind: make_language_base(folder / kind, kind) for kind in KINDS}}


def language_model(base: Path, adapter: Adapter | None = None, *, precision: str = "float32") -> TextClassifier:
    model = Model(task="causal-lm", adapter=adapter or Adapter(rank=2, layers="last:1"), precision=precision)
    found = build_model(open_base(str(base), cache=base), model, seed=3)
    assert isinstance(found, TextClassifier)
    return found


def shaken(model: TextClassifier) -> TextClassifier:
    numbers = torch.Generator().manual_seed(5)
    load_state(model, {k: v + 0.1 * torch.randn(v.shape, generator=numbers) for k, v in trainable_state(model).items()})
    return model


@pytest.fixture
def rows(tmp_path: Path, bases: dict[str, Path]) -> TokenRows:
    return language_rows(tmp_path / "rows.safetensors", bases["llama"])


def heads() -> tuple[VocabularyHead, PlainVocabularyHead]:
    torch.manual_seed(1)
    sliced = VocabularyHead(8, 50).requires_grad_(False)
    plain = PlainVocabularyHead(8, 50).requires_grad_(False)
    plain.load_state_dict(sliced.state_dict())
    return sliced, plain


@pytest.mark.parametrize("tokens_a_slice", [1, 3, 1000])
def test_losses_and_gradients_of_slices_are_those_of_all_logits_at_once(
    monkeypatch: pytest.MonkeyPatch, tokens_a_slice: int
) -> None:
    monkeypatch.setattr(vocabulary, "SLICE_NUMBERS", 50 * tokens_a_slice)
    ids, mask = torch.randint(0, 50, (4, 6)), torch.tensor([[1] * n + [0] * (6 - n) for n in (6, 2, 1, 4)])
    vectors, weights = torch.randn(4, 6, 8), torch.rand(4, 6)
    found = []
    for head in heads():
        given = vectors.clone().requires_grad_()
        out = told(head, given, ids, mask)
        (gradient,) = torch.autograd.grad((out[..., 0] * weights).sum(), given)
        found.append((out.detach(), gradient))
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-5)
    assert (found[0][0].abs().sum(2) > 0).sum(1).tolist() == [5, 1, 0, 3]  # nothing comes after a row's last token
    assert found[0][1].abs().sum(2)[:, -1].tolist() == [0, 0, 0, 0]


def test_no_more_logits_than_a_slice_are_ever_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "SLICE_NUMBERS", 100)
    seen: list[int] = []
    linear = torch.nn.functional.linear

    def watched(*given: torch.Tensor | None) -> torch.Tensor:
        out = linear(*given)  # type: ignore[arg-type]
        seen.append(out.numel())
        return out

    monkeypatch.setattr(vocabulary.functional, "linear", watched)
    told(heads()[0], torch.randn(3, 7, 8), torch.zeros(3, 7, dtype=torch.int64), torch.ones(3, 7, dtype=torch.int64))
    assert (max(seen), sum(seen)) == (100, 3 * 6 * 50)


def test_the_loss_of_a_base_is_that_of_transformers(bases: dict[str, Path], rows: TokenRows) -> None:
    for kind in KINDS:
        whole = AutoModelForCausalLM.from_pretrained(bases[kind])
        batch = rows.batch([4])
        with torch.no_grad():
            theirs = whole(input_ids=batch.input_ids, labels=batch.input_ids).loss
            model = language_model(bases[kind])
            ours = task_of(model).losses(model(*batch.inputs), batch)
        assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


def test_the_state_is_the_adapter_alone_and_with_every_weight_the_table_of_words_is_in_it_once(
    bases: dict[str, Path],
) -> None:
    assert all("lora_" in name for name in trainable_state(language_model(bases["llama"])))
    whole = language_model(bases["llama"], Adapter(kind="full"))
    assert whole.head.weight is whole.encoder.get_parameter("embed_tokens.weight")
    assert "embed_tokens.weight" in trainable_state(whole) and "head.weight" not in trainable_state(whole)
    assert "head.weight" in trainable_state(language_model(bases["untied"], Adapter(kind="full")))


def test_a_base_in_bfloat16_keeps_a_last_layer_in_float32(bases: dict[str, Path], rows: TokenRows) -> None:
    exact, short = language_model(bases["llama"]), language_model(bases["llama"], precision="bfloat16")
    assert (short.dtype, short.head.weight.dtype) == (torch.bfloat16, torch.float32)
    assert look(short, rows, LABELS).loss == pytest.approx(look(exact, rows, LABELS).loss, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_of_the_frozen_layers_changes_nothing_but_rounding(
    bases: dict[str, Path], rows: TokenRows, kind: str
) -> None:
    model = shaken(language_model(bases[kind]))
    kept = with_prefix(model, rows, key="base")
    assert kept.batch([0]).prefix is not None
    torch.testing.assert_close(judge(model, kept, LABELS).loss, judge(model, rows, LABELS).loss, atol=1e-6, rtol=1e-5)


def test_an_item_is_a_token_that_could_be_told(bases: dict[str, Path], rows: TokenRows) -> None:
    model = language_model(bases["llama"])
    judged, found = judge(model, rows, LABELS), look(model, rows, LABELS)
    assert len(judged.row) == int((rows.lengths - 1).sum()) == found.matrix.sum()
    assert found.matrix[0].sum() == 0  # what comes next is always what was right
    metrics = task_of(model).metrics(found.matrix, found.sums)
    assert metrics["perplexity"] == pytest.approx(math.exp(found.loss))
    assert metrics["accuracy"] == pytest.approx(float((judged.predicted == RIGHT).double().mean()))


def test_a_text_is_cut_into_pieces_that_never_go_over_two_texts(bases: dict[str, Path]) -> None:
    found = tokenise_next(["the film was good and warm", "a book"], RIGHT, load_tokenizer(bases["llama"]), 4)
    assert found["offsets"].tolist() == [0, 4, 7, 10]
    assert found["targets"].tolist()[:7] == [
        *found["input_ids"].tolist()[1:4],
        -100,
        *found["input_ids"].tolist()[5:7],
        -100,
    ]
    assert found["input_ids"].tolist()[6] == found["input_ids"].tolist()[9] == 3  # the end of a text
    with pytest.raises(DataError, match="no text has two tokens"):
        tokenise_next([""], RIGHT, load_tokenizer(bases["llama"]), 4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_goes_on_as_transformers_own_greedy_search_lets_it(bases: dict[str, Path], kind: str) -> None:
    whole = AutoModelForCausalLM.from_pretrained(bases[kind])
    theirs = whole.generate(
        torch.tensor([[14, 15, 16]]),
        attention_mask=torch.ones(1, 3),
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=0,
    )
    ours = continued(language_model(bases[kind]), [14, 15, 16], tokens=12, end=3)
    assert ours == [token for token in theirs[0, 3:].tolist() if token != 3]
    assert continued(language_model(bases[kind]), [14, 15, 16], tokens=12, end=ours[2]) == ours[: ours.index(ours[2])]


def test_more_tokens_than_the_base_has_room_for_are_refused(bases: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match="60 \\+ 5 tokens"):
        continued(language_model(bases["llama"]), [5] * 60, tokens=5, end=None)


def test_every_weight_with_privacy_and_a_scale_before_the_last_layer_are_refused_when_an_experiment_is_made() -> None:
    whole = Model(task="causal-lm", adapter=Adapter(kind="full"))
    with pytest.raises(ExperimentError, match=r"model\.adapter\.kind"):
        Experiment(model=whole)
    assert Experiment(model=whole, privacy=Privacy(unit="none")).model is whole
    with pytest.raises(ExperimentError, match="head_scale"):
        Experiment(model=Model(task="causal-lm", head_scale=5.0))
