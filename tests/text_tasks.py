"""Tiny rows for the tasks on texts whose answer is a number, any number of labels, or one label for two texts.

Example::

    rows = number_rows(tmp_path / "rows.safetensors", tiny_base)
    model = make_model(tiny_base, "regression")
"""

import csv
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tiny import BAD, GOOD, PLAIN, make_base
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from fedrelease.data.cells import Example
from fedrelease.data.tokens import TokenRows, load_tokenizer, save_rows
from fedrelease.experiment import Adapter, Model
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import TextClassifier, load_state, trainable_state
from fedrelease.models.tasks import build_model
from fedrelease.tasks import TASKS

MANY = ("good", "bad", "end")
"""Labels of which a text has any number: a word of each kind is in it."""
RANGE, NEAR = (-3.0, 3.0), 0.5
NUMBER_MODEL = 'task = "regression"'
MANY_MODEL = 'task = "multi-label-classification"\nlabels = ["good", "bad", "end"]'
PAIR_MODEL = 'task = "pair-classification"\nlabels = ["no", "yes"]'


def make_pair_base(folder: Path) -> Path:
    """The tiny base, whose tokenizer puts two texts together as BERT's does, with segments."""
    make_base(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save_pretrained(folder)
    return folder


def numbered(numbers: random.Random) -> tuple[str, float]:
    """A text of plain words with up to three good or three bad ones: their number, or minus their number."""
    value = numbers.randint(-3, 3)
    words = numbers.choices(PLAIN, k=4) + numbers.choices(GOOD if value > 0 else BAD, k=abs(value))
    numbers.shuffle(words)
    return " ".join(words), float(value)


def labelled(numbers: random.Random) -> tuple[str, list[str]]:
    """A text, and which of ``MANY`` it shows."""
    kinds = [kind for kind in MANY if numbers.random() < 0.4]
    pools = {"good": GOOD, "bad": BAD, "end": ("end",)}
    plain = [word for word in PLAIN if word != "end"]
    words = numbers.choices(plain, k=4) + [numbers.choice(pools[kind]) for kind in kinds]
    numbers.shuffle(words)
    return " ".join(words), kinds


def paired(numbers: random.Random) -> tuple[str, str, str]:
    """Two texts, and whether both are good."""
    first, second = (numbers.choice(("good", "good", "bad")) for _ in range(2))
    texts = [f"the film {numbers.choice(GOOD if kind == 'good' else BAD)} it was" for kind in (first, second)]
    return texts[0], texts[1], "yes" if first == second == "good" else "no"


def write_csv(path: Path, header: Sequence[str], made: Callable[[random.Random], Sequence[object]], rows: int) -> Path:
    """A CSV with the columns of ``header`` and ``site``, which is ``a`` or ``b``; ``rows`` rows at each."""
    numbers = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*header, "site"])
        for site in ("a", "b"):
            writer.writerows([*made(numbers), site] for _ in range(rows))
    return path


def number_rows(path: Path, base: Path, *, count: int = 24) -> TokenRows:
    """Rows whose numbers lie between -1 and 1."""
    numbers = random.Random(1)
    made = [numbered(numbers) for _ in range(count)]
    examples = [Example(text=text, label=1, content=value, values=(value / 3, NEAR / 3)) for text, value in made]
    return _kept(path, base, "regression", examples, ("off", "near"))


def many_rows(path: Path, base: Path, *, count: int = 24) -> TokenRows:
    """Rows with any number of the labels ``MANY``."""
    numbers = random.Random(1)
    made = [labelled(numbers) for _ in range(count)]
    examples = [Example(text=text, label=0, values=tuple(float(name in own) for name in MANY)) for text, own in made]
    return _kept(path, base, "multi-label-classification", examples, MANY)


def pair_rows(path: Path, base: Path, *, count: int = 24) -> TokenRows:
    """Rows of two texts, of the base of :func:`make_pair_base`."""
    numbers = random.Random(1)
    made = [paired(numbers) for _ in range(count)]
    examples = [Example(text=one[0], label=int(one[2] == "yes"), content=list(one)) for one in made]
    return _kept(path, base, "pair-classification", examples, ("no", "yes"))


def _kept(path: Path, base: Path, task: str, examples: Sequence[Example], labels: Sequence[str]) -> TokenRows:
    save_rows(path, TASKS[task].encode(examples, labels, load_tokenizer(base), 32))
    return TokenRows(path)


def make_model(base: Path, task: str, *, kind: str = "lora") -> TextClassifier:
    """A small model for a task, every trained number of it other than zero."""
    adapter = Adapter(kind=kind) if kind == "full" else Adapter(kind=kind, rank=2, layers="last:1")
    labels = {"multi-label-classification": MANY, "pair-classification": ("no", "yes")}
    wanted = Model(base=str(base), task=task, labels=labels.get(task, Model.labels), adapter=adapter)
    model = build_model(open_base(str(base), cache=base), wanted, seed=3)
    assert isinstance(model, TextClassifier)
    generator, state = torch.Generator().manual_seed(5), trainable_state(model)
    if kind != "full":
        load_state(model, {name: 0.3 * torch.randn(value.shape, generator=generator) for name, value in state.items()})
    return model
