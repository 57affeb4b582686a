"""A tiny real federation for tests: a BERT of random weights, a word tokenizer, and rows in which one word tells the label.

Example::

    base = make_base(tmp_path / "base")
    csv = make_rows(tmp_path / "rows.csv", sites=("a", "b"), rows=40)
"""

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from fedrelease.data.masks import tokenise_masked
from fedrelease.data.source_target import tokenise_pairs
from fedrelease.data.targets import tokenise_next, tokenise_words
from fedrelease.data.tokens import TokenRows, load_tokenizer, save_rows, tokenise
from fedrelease.experiment_sections import RIGHT

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
GOOD = ("good", "fine", "great", "warm")
BAD = ("bad", "poor", "awful", "cold")
PLAIN = ("the", "a", "film", "book", "was", "is", "very", "quite", "and", "it", "plot", "end")
WORDS = (*SPECIAL, *GOOD, *BAD, *PLAIN)
TAGS = ("O", "B-good", "I-good", "B-bad", "I-bad")
TAGGING = f'task = "token-classification"\nlabels = {json.dumps(TAGS)}'
"""For the section ``model``."""


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
    words = _words()
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


def make_language_base(folder: Path, kind: str = "llama", *, tied: bool = True) -> Path:
    """A language model of 2 layers of 32 units over the same words, ``llama`` or ``gpt2``; a text ends with [SEP]."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LANGUAGE[kind](tied).save_pretrained(folder)  # type: ignore[no-untyped-call]  # transformers ships no types
    PreTrainedTokenizerFast(
        tokenizer_object=_words(), pad_token="[PAD]", unk_token="[UNK]", eos_token="[SEP]", model_max_length=64
    ).save_pretrained(folder)
    return folder


def _words() -> Tokenizer:
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return words


def _llama(tied: bool) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        bos_token_id=2,
        eos_token_id=3,
    )
    return LlamaForCausalLM(config)


def _gpt2(tied: bool) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=len(WORDS),
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=64,
        tie_word_embeddings=tied,
        bos_token_id=2,
        eos_token_id=3,
    )
    return GPT2LMHeadModel(config)


LANGUAGE = {"gpt2": _gpt2, "llama": _llama}


def make_masked_base(folder: Path, kind: str = "bert") -> Path:
    """An encoder whose tokenizer has a mask, after all words: ``bert`` and ``roberta`` with their own heads, ``headless``."""
    make_base(folder)
    (folder / "model.safetensors").unlink()
    sizes = {"vocab_size": len(WORDS) + 1, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 64, "max_position_embeddings": 66}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "roberta":
            model: PreTrainedModel = RobertaForMaskedLM(RobertaConfig(**sizes, pad_token_id=0))  # type: ignore[arg-type]
        else:
            model = (BertModel if kind == "headless" else BertForMaskedLM)(BertConfig(**sizes))  # type: ignore[arg-type]
        torch.nn.init.normal_(model.get_output_embeddings().bias) if kind != "headless" else None
        model.save_pretrained(folder)
    words = PreTrainedTokenizerFast.from_pretrained(folder)
    words.add_special_tokens({"mask_token": "[MASK]"})
    words.save_pretrained(folder)
    return folder


def masked_rows(path: Path, base: Path, *, count: int = 24) -> TokenRows:
    """Rows of 6 to 12 tokens, one or two of which are hidden."""
    numbers = random.Random(1)
    texts = [sentence("positive", numbers) for _ in range(count)]
    save_rows(path, tokenise_masked(texts, RIGHT, load_tokenizer(base), 32))
    return TokenRows(path)


def masked_experiment(base: Path, rows: Path, **settings: str) -> str:
    """:func:`experiment_text` of a federation that learns to tell hidden words."""
    return experiment_text(base, rows, **settings).replace("[model]\n", '[model]\ntask = "masked-lm"\n')


def make_sequence_base(folder: Path, kind: str = "t5", *, tied: bool = True) -> Path:
    """An encoder and a decoder of 2 layers of 32 units each over the same words, ``t5`` or ``bart``."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        SEQUENCES[kind](tied).save_pretrained(folder)  # type: ignore[no-untyped-call]  # transformers ships no types
    PreTrainedTokenizerFast(
        tokenizer_object=_words(), pad_token="[PAD]", unk_token="[UNK]", eos_token="[SEP]", model_max_length=64
    ).save_pretrained(folder)
    return folder


def _t5(tied: bool) -> T5ForConditionalGeneration:
    config = T5Config(
        vocab_size=len(WORDS),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        tie_word_embeddings=tied,
        pad_token_id=0,
        eos_token_id=3,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config)


def _bart(tied: bool) -> BartForConditionalGeneration:
    config = BartConfig(
        vocab_size=len(WORDS),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        decoder_start_token_id=3,
        forced_eos_token_id=None,
    )
    return BartForConditionalGeneration(config)


SEQUENCES = {"bart": _bart, "t5": _t5}


def pair(numbers: random.Random) -> tuple[str, str]:
    """A sentence, and of it the word that tells the label and the one before or after it."""
    words = sentence(numbers.choice(("negative", "positive")), numbers).split()
    place = next(number for number, word in enumerate(words) if word in (*GOOD, *BAD))
    return " ".join(words), " ".join(words[max(0, place - 1) : place + 1])


def pair_rows(path: Path, base: Path, *, count: int = 24) -> TokenRows:
    """Rows of 4 to 10 tokens of a source and 2 or 3 of its target."""
    numbers = random.Random(1)
    save_rows(path, tokenise_pairs([pair(numbers) for _ in range(count)], RIGHT, load_tokenizer(base), 32))
    return TokenRows(path)


def make_pairs(path: Path, *, sites: Sequence[str], rows: int, seed: int = 0) -> Path:
    """A CSV with columns text, target and site."""
    numbers = random.Random(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "target", "site"])
        writer.writerows([*pair(numbers), site] for site in sites for _ in range(rows))
    return path


def sequence_experiment(base: Path, rows: Path, **settings: str) -> str:
    """:func:`experiment_text` of a federation that writes one text for another."""
    return experiment_text(base, rows, **settings).replace("[model]\n", '[model]\ntask = "seq2seq"\n')


def language_rows(path: Path, base: Path, *, count: int = 24) -> TokenRows:
    """Rows of 4 to 11 tokens whose targets are the tokens that come next."""
    numbers = random.Random(1)
    texts = [sentence("positive", numbers) for _ in range(count)]
    save_rows(path, tokenise_next(texts, RIGHT, load_tokenizer(base), 32))
    return TokenRows(path)


CHAT = (
    "{% for one in messages %}{{ one['role'] + ' ' + one['content'] + ' [SEP] ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
)
"""A template of turns over the words of the tiny bases."""


def make_chat_base(folder: Path, template: str = CHAT) -> Path:
    """A language model whose tokenizer has a chat template."""
    make_language_base(folder)
    words = PreTrainedTokenizerFast.from_pretrained(folder)
    words.chat_template = template
    words.save_pretrained(folder)
    return folder


def language_experiment(base: Path, rows: Path, **settings: str) -> str:
    """:func:`experiment_text` of a federation that learns which word comes next."""
    text = experiment_text(base, rows, **settings)
    return text.replace("[model]\n", '[model]\ntask = "causal-lm"\n')


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


def tagged(numbers: random.Random) -> tuple[list[str], list[str]]:
    """Plain words, with a name of one or two words of a kind among them, and a tag for each word."""
    kind, words = numbers.choice((("good", GOOD), ("bad", BAD)))
    before, name, after = (
        numbers.choices(pool, k=numbers.randint(1, most)) for pool, most in ((PLAIN, 4), (words, 2), (PLAIN, 4))
    )
    marks = [f"B-{kind}", *(f"I-{kind}" for _ in name[1:])]
    return [*before, *name, *after], ["O"] * len(before) + marks + ["O"] * len(after)


def make_tagged_rows(path: Path, *, sites: Sequence[str], rows: int, seed: int = 0) -> Path:
    """JSON lines with the columns text (words), label (their tags) and site."""
    numbers = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for site in sites:
            for words, tags in (tagged(numbers) for _ in range(rows)):
                file.write(json.dumps({"text": words, "label": tags, "site": site}) + "\n")
    return path


def tagged_token_rows(path: Path, base: Path, *, count: int = 24) -> TokenRows:
    """Rows whose words have tags."""
    numbers = random.Random(1)
    texts = [tagged(numbers) for _ in range(count)]
    tags = [[TAGS.index(tag) for tag in own] for _, own in texts]
    save_rows(path, tokenise_words([words for words, _ in texts], tags, list(map(max, tags)), load_tokenizer(base), 32))
    return TokenRows(path)


def experiment_text(base: Path, rows: Path, **settings: str) -> str:
    """TOML of a small federation; ``settings`` are whole extra lines by section, for example ``privacy='epsilon = 2.0'``."""
    return f"""
[federation]
name = "tiny"
{settings.get("federation", "")}
[model]
base = "{base}"
{settings.get("model", "")}
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
