"""What the task of tagging counts, tells and answers, against slow twins."""

import math
import random
from itertools import pairwise
from pathlib import Path

import numpy
import pytest
import torch
from one_tagger import make_tagger
from reference import entities_by_loop, one_gradient
from tiny import TAGS, tagged_token_rows
from torch import Tensor

from fedrelease.client.selftest import check_gradients
from fedrelease.client.selftest_truth import shaken
from fedrelease.client.training import summed_loss
from fedrelease.data.tokens import IGNORED, Batch, TokenRows
from fedrelease.models.evaluation import bounded, judge, tally
from fedrelease.models.per_example import per_example
from fedrelease.tasks import TASKS
from fedrelease.tasks.contract import Judged
from fedrelease.tasks.entities import by_type, entities, entity_counts, entity_types, word_spans

TASK = TASKS["token-classification"]
SEEDS = range(40)


def random_tags(numbers: random.Random, count: int) -> list[str]:
    return [numbers.choice(TAGS) for _ in range(count)]


def random_batch(numbers: random.Random, rows: int) -> tuple[Tensor, Batch]:
    """Rows of 1 to 7 words with gaps between their targets, as word pieces leave them."""
    generator = torch.Generator().manual_seed(numbers.randrange(2**31))
    targets = torch.full((rows, 9), IGNORED)
    for row in targets:
        places = sorted(numbers.sample(range(1, 9), numbers.randint(1, 7)))
        row[places] = torch.tensor([numbers.randrange(len(TAGS)) for _ in places])
    batch = Batch(
        input_ids=torch.ones(rows, 9, dtype=torch.int64),
        attention_mask=torch.ones(rows, 9, dtype=torch.int64),
        labels=torch.zeros(rows, dtype=torch.int64),
        targets=targets,
        prefix=None,
    )
    return 3 * torch.randn(rows, 9, len(TAGS), generator=generator), batch


def test_an_inside_tag_that_continues_nothing_begins_a_name() -> None:
    assert entities(["I-a", "I-a", "I-b", "B-b", "O", "I-b"]) == {("a", 0, 2), ("b", 2, 3), ("b", 3, 4), ("b", 5, 6)}


@pytest.mark.parametrize("seed", SEEDS)
def test_spans_and_their_counts_are_those_of_a_slow_loop(seed: int) -> None:
    numbers = random.Random(seed)
    truth, predicted = (random_tags(numbers, numbers.randint(1, 12)) for _ in range(2))
    predicted = [*predicted, *["O"] * len(truth)][: len(truth)]
    there, found = entities_by_loop(truth), entities_by_loop(predicted)
    assert entities(truth) == there
    counts = entity_counts(truth, predicted, ("bad", "good"))
    assert counts[:3] == [len(there), len(found), len(there & found)]
    assert [counts[3 + place] + counts[6 + place] for place in range(3)] == counts[:3]


def test_counts_by_type_become_precision_recall_and_f1() -> None:
    """Of 4 there 5 were found, 3 of them rightly: 3/5, 3/4, 6/9."""
    assert by_type([9, 9, 9, 4, 5, 3], ("a",)) == {
        "a": {"precision": 0.6, "recall": 0.75, "f1": pytest.approx(2 / 3), "support": 4}
    }


def test_parts_of_speech_name_no_entities() -> None:
    assert entity_types(("NOUN", "VERB", "X-RAY", "O")) == ()
    assert entity_types(TAGS) == ("bad", "good")


def test_a_rows_sums_are_its_entities_in_all_and_by_type() -> None:
    numbers = random.Random(3)
    logits, batch = random_batch(numbers, 5)
    judged = TASK.judge(logits, batch, TAGS)
    for row, (own, found) in enumerate(zip(batch.targets, logits, strict=True)):  # type: ignore[arg-type]
        kept = own != IGNORED
        truth, said = ([TAGS[place] for place in tags.tolist()] for tags in (own[kept], found[kept].argmax(1)))
        assert judged.sums[row].tolist() == entity_counts(truth, said, ("bad", "good"))
    assert judged.sums.shape[1] == len(TASK.sums) + len(TASK.detail(TAGS))


def without_last(judged: Judged, rows: int) -> Judged:
    kept = judged.row < rows - 1
    columns = {name: getattr(judged, name)[kept] for name in ("row", "truth", "predicted", "loss")}
    return Judged(**columns, sums=judged.sums[:-1])


@pytest.mark.parametrize("seed", SEEDS)
def test_one_row_moves_what_is_told_with_noise_by_at_most_the_promised_length(seed: int) -> None:
    numbers = random.Random(seed)
    rows = numbers.randint(1, 6)
    judged = TASK.judge(*random_batch(numbers, rows), TAGS)
    bound, kept = {"classes": len(TAGS), "bound": TASK.bound, "sums": len(TASK.sums)}, len(TASK.sums)
    whole, less = bounded(judged, **bound), bounded(without_last(judged, rows), **bound)  # type: ignore[arg-type]
    cells, sums = numpy.linalg.norm(whole.matrix - less.matrix), numpy.subtract(whole.sums, less.sums)
    assert len(whole.sums) == kept
    assert cells <= 1 + 1e-9
    assert numpy.linalg.norm(sums) <= TASK.bound + 1e-9
    assert math.hypot(cells, numpy.linalg.norm(sums) / TASK.bound) <= TASK.sensitivity + 1e-9


def test_a_row_of_names_alone_moves_the_sums_by_the_whole_bound() -> None:
    """Each word is a name that was found: (1, 1, 1) a word is longer than the bound, so that the bound is what counts."""
    targets = torch.tensor([[TAGS.index("B-good")] * 3])
    batch = Batch(
        input_ids=targets, attention_mask=torch.ones_like(targets), labels=targets[:, 0], targets=targets, prefix=None
    )
    judged = TASK.judge(torch.nn.functional.one_hot(targets, len(TAGS)).float(), batch, TAGS)
    assert tally(judged, classes=len(TAGS)).sums[:3] == (3, 3, 3)
    told = bounded(judged, classes=len(TAGS), bound=TASK.bound, sums=3)
    assert math.hypot(*told.sums) == pytest.approx(TASK.bound)


def test_a_rows_loss_is_the_mean_of_its_words_and_of_nothing_else() -> None:
    logits, batch = random_batch(random.Random(5), 4)
    for row, (own, found) in enumerate(zip(batch.targets, logits, strict=True)):  # type: ignore[arg-type]
        words = [-float(found[place].log_softmax(0)[tag]) for place, tag in enumerate(own.tolist()) if tag != IGNORED]
        assert float(TASK.losses(logits, batch)[row]) == pytest.approx(sum(words) / len(words), rel=1e-5)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> TokenRows:
    return tagged_token_rows(tmp_path_factory.mktemp("tagged") / "rows.safetensors", tiny_base)


@pytest.mark.parametrize("kind", ["lora", "lora-sb", "full"])
def test_gradients_by_example_are_those_of_one_example_at_a_time(tiny_base: Path, rows: TokenRows, kind: str) -> None:
    """The check before private training, and for factors the slow twin beside it."""
    model = make_tagger(tiny_base, kind=kind)
    check_gradients(model, rows)
    if kind == "full":
        return  # no example's gradient is formed: the check compared lengths and sums
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    with shaken(trained):
        with per_example(model):
            summed_loss(model, rows, torch.arange(5)).backward()
            together = [value.grad_sample for value in trained.values()]  # type: ignore[attr-defined]
        for row in range(5):
            for value, slow in zip(together, one_gradient(model, list(trained.values()), rows, row), strict=True):
                torch.testing.assert_close(value[row], slow, rtol=1e-3, atol=1e-6)


def test_what_is_judged_does_not_depend_on_the_rows_beside(tiny_base: Path, rows: TokenRows) -> None:
    model = make_tagger(tiny_base)
    whole = judge(model, rows, TAGS)
    alone = judge(model, rows.chosen(torch.tensor([7])), TAGS)
    assert torch.equal(whole.predicted[whole.row == 7], alone.predicted)
    torch.testing.assert_close(whole.loss[whole.row == 7], alone.loss, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ada Lovelace lives in London.", ["Ada", "Lovelace", "lives", "in", "London", "."]),
        ('("Ada", she said...) !?', ["(", '"', "Ada", '"', ",", "she", "said", "...", ")", "!", "?"]),
        ("@ada see http://a.b/c?d, #x", ["@ada", "see", "http://a.b/c?d", ",", "#x"]),
        ("  \t\n", []),
        (". (", [".", "("]),
    ],
)
def test_a_text_is_cut_into_words_with_their_places(text: str, words: list[str]) -> None:
    spans = word_spans(text)
    assert [text[start:end] for start, end in spans] == words
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
