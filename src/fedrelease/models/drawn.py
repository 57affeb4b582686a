"""Bases that nobody trained: small networks, to learn a task from nothing. Their weights are drawn here, the same everywhere.

Example::

    files = drawn_files("tiny-t5-bytes")
    sorted(files)                        # ['config.json', 'model.safetensors', 'tokenizer_config.json']

Nothing is downloaded for them. They are pinned in the catalog like what is fetched, and ``fedrelease fetch`` writes them into the
cache. Numbers come from numpy's ``RandomState``, whose stream never changes (NEP 19), and only from its uniform one: it takes no
logarithm, so that no machine's library rounds it otherwise.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from math import sqrt
from typing import TypeAlias

from fedrelease.errors import FetchError
from fedrelease.files import Json

__all__ = ["drawn_files"]

SEED = 7
WIDTH, HEADS, HEAD_WIDTH, INNER_WIDTH, LAYERS = 128, 4, 32, 256, 2
BUCKETS = 32
TOKENS = 384
"""Three special ones, 256 bytes, and 125 that ByT5 keeps for hidden pieces of text."""
CONFIG: Mapping[str, Json] = {
    "architectures": ["T5ForConditionalGeneration"],
    "d_ff": INNER_WIDTH,
    "d_kv": HEAD_WIDTH,
    "d_model": WIDTH,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.0,
    "dtype": "float32",
    "eos_token_id": 1,
    "feed_forward_proj": "relu",
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "num_decoder_layers": LAYERS,
    "num_heads": HEADS,
    "num_layers": LAYERS,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": BUCKETS,
    "tie_word_embeddings": True,
    "vocab_size": TOKENS,
}
TOKENIZER: Mapping[str, Json] = {
    "eos_token": "</s>",
    "extra_ids": 125,
    "model_max_length": 512,
    "pad_token": "<pad>",
    "tokenizer_class": "ByT5Tokenizer",
    "unk_token": "<unk>",
}

_Weight: TypeAlias = tuple[str, tuple[int, ...], float]
"""Its name, its shape and its variance; a norm has none, and begins with ones."""


def drawn_files(alias: str) -> Mapping[str, bytes]:
    """The files of a base, by path in its folder.

    Raises:
        FetchError: nothing of that name is drawn.
    """
    if alias not in DRAWN:
        raise FetchError(
            f"{alias} is not drawn", value=alias, rule=f"what is drawn is one of {', '.join(sorted(DRAWN))}"
        )
    return DRAWN[alias]()


def _tiny_t5() -> Mapping[str, bytes]:
    """As T5 begins, with the same variances, but uniform instead of normal.

    Source: Raffel et al. (2020), https://arxiv.org/abs/1910.10683, and the code that came with it.
    """
    import numpy
    from safetensors.numpy import save

    stream = numpy.random.RandomState(SEED)
    state = {}
    for name, shape, variance in _weights():
        drawn = 2 * stream.random_sample(shape) - 1 if variance else None
        state[name] = (numpy.ones(shape) if drawn is None else drawn * sqrt(3 * variance)).astype(numpy.float32)
    texts = {name: _text(facts) for name, facts in (("config.json", CONFIG), ("tokenizer_config.json", TOKENIZER))}
    return {**texts, "model.safetensors": save(state, metadata={"format": "pt"})}


def _weights() -> Iterator[_Weight]:
    """Every weight in the order in which it is drawn."""
    yield "shared.weight", (TOKENS, WIDTH), 1.0
    for side in ("encoder", "decoder"):
        for block in range(LAYERS):
            yield from _block(f"{side}.block.{block}.layer", looks=side == "decoder", first=block == 0)
        yield f"{side}.final_layer_norm.weight", (WIDTH,), 0.0


def _block(name: str, *, looks: bool, first: bool) -> Iterator[_Weight]:
    """Attention, in a decoder that looks at what was read a second one, and two plain layers; a norm before each."""
    kinds = ("SelfAttention", "EncDecAttention") if looks else ("SelfAttention",)
    for place, kind in enumerate(kinds):
        yield from _attention(f"{name}.{place}.{kind}", with_distances=first and place == 0)
        yield f"{name}.{place}.layer_norm.weight", (WIDTH,), 0.0
    plain = f"{name}.{len(kinds)}"
    yield f"{plain}.DenseReluDense.wi.weight", (INNER_WIDTH, WIDTH), 1 / WIDTH
    yield f"{plain}.DenseReluDense.wo.weight", (WIDTH, INNER_WIDTH), 1 / INNER_WIDTH
    yield f"{plain}.layer_norm.weight", (WIDTH,), 0.0


def _attention(name: str, *, with_distances: bool) -> Iterator[_Weight]:
    inner = HEADS * HEAD_WIDTH
    yield f"{name}.q.weight", (inner, WIDTH), 1 / (WIDTH * HEAD_WIDTH)
    yield f"{name}.k.weight", (inner, WIDTH), 1 / WIDTH
    yield f"{name}.v.weight", (inner, WIDTH), 1 / WIDTH
    yield f"{name}.o.weight", (WIDTH, inner), 1 / inner
    if with_distances:
        yield f"{name}.relative_attention_bias.weight", (BUCKETS, HEADS), 1 / WIDTH


def _text(facts: Mapping[str, Json]) -> bytes:
    return json.dumps(facts, indent=2, sort_keys=True).encode() + b"\n"


DRAWN: Mapping[str, Callable[[], Mapping[str, bytes]]] = {"tiny-t5-bytes": _tiny_t5}
