"""A tiny real federation for tests: a BERT of random weights, a word tokenizer, and rows in which one word tells the label.

Example::

    base = make_base(tmp_path / "base")
    csv = make_rows(tmp_path / "rows.csv", sites=("a", "b"), rows=40)
"""

import csv
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from fedrelease.data.tokens import TokenRows, load_tokenizer, save_rows, tokenise

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
GOOD = ("good", "fine", "great", "warm")
BAD = ("bad", "poor", "awful", "cold")
PLAIN = ("the", "a", "film", "book", "was", "is", "very", "quite", "and", "it", "plot", "end")
WORDS = (*SPECIAL, *GOOD, *BAD, *PLAIN)


def make_base(folder: Path) -> Path:
    """A base with 2 layers of 32 units and 20-odd words, saved as transformers saves it; the same bytes every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
        )
        BertModel(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    ).save_pretrained(folder)
    return folder


def sentence(label: str, numbers: random.Random) -> str:
    """Three to nine plain words and one that tells the label."""
    words = numbers.choices(PLAIN, k=numbers.randint(3, 9))
    words.insert(numbers.randrange(len(words)), numbers.choice(GOOD if label == "positive" else BAD))
    return " ".join(words)


def token_rows(path: Path, base: Path, *, count: int = 24) -> TokenRows:
    """Rows of 6 to 12 tokens, both labels alike."""
    numbers = random.Random(1)
    labels = [number % 2 for number in range(count)]
    texts = [sentence(("negative", "positive")[label], numbers) for label in labels]
    save_rows(path, tokenise(texts, labels, load_tokenizer(base), 32))
    return TokenRows(path)


def make_rows(path: Path, *, sites: Sequence[str], rows: int, seed: int = 0) -> Path:
    """A CSV with columns text, label and site; ``rows`` rows for each site, both labels alike."""
    numbers = random.Random(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "site"])
        for site in sites:
            for number in range(rows):
                label = ("negative", "positive")[number % 2]
                writer.writerow([sentence(label, numbers), label, site])
    return path


def experiment_text(base: Path, rows: Path, **settings: str) -> str:
    """TOML of a small federation; ``settings`` are whole extra lines by section, for example ``privacy='epsilon = 2.0'``."""
    return f"""
[federation]
name = "tiny"
{settings.get("federation", "")}
[model]
base = "{base}"
[model.adapter]
rank = 2
layers = "last:1"
[data]
source = "{rows}"
[training]
batch_size = 8
lr = 0.01
max_length = 64
{settings.get("training", "")}
[privacy]
{settings.get("privacy", "epsilon = 8.0")}
[[phase]]
name = "main"
rounds = {settings.get("rounds", "2")}
{settings.get("phase", "")}
"""
