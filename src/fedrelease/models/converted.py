"""Bases that are fetched in a form that nothing trains from, and converted once to float32 safetensors.

``smollm2`` comes as four-bit GGUF. ``efficientnet-lite0`` comes as a file of torch's own, which is read by torch's restricted
reader only after its sha256 was found to be the pinned one, and never again.

Example::

    converted("smollm2", locate("smollm2", cache), cache)        # a folder with config.json, model.safetensors, tokenizer.json

What comes out is pinned like what is fetched, so that a base has one digest on every machine: weights are sums and products of
stored numbers, in an order of their own, and all else is written here.
"""

import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fedrelease.cache import workspace
from fedrelease.errors import ModelError
from fedrelease.files import Json, canonical_bytes, digest_bytes, digest_file, write_durably
from fedrelease.models.efficientnet_lite0 import LITE0

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CONVERSIONS", "Conversion", "converted"]

INSTALL = 'pip install -c constraints.txt "fedrelease[lm]"'


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """How one base is converted.

    Attributes:
        file: in the fetched folder.
        config, tokenizer, processor: what ``config.json``, ``tokenizer_config.json`` and ``preprocessor_config.json`` say, the
            same whatever wrote the rest; what is empty is not written.
        pinned: sha256 of the files that are computed.
        needed: packages that reading takes. sha256: of a file of torch's own, taken before it is opened.
    """

    file: str
    config: Mapping[str, Json]
    tokenizer: Mapping[str, Json] = field(default_factory=dict)
    processor: Mapping[str, Json] = field(default_factory=dict)
    pinned: Mapping[str, str]
    needed: tuple[str, ...] = ()
    sha256: str = ""

    @property
    def digest(self) -> str:
        """Of all that comes out."""
        parts: dict[str, Json] = {"config": dict(self.config), "tokenizer": dict(self.tokenizer)}
        parts |= {"processor": dict(self.processor)} if self.processor else {}
        return digest_bytes(canonical_bytes({**parts, "pinned": dict(self.pinned)}))

    @property
    def written(self) -> Mapping[str, Mapping[str, Json]]:
        """What is written beside the weights, by name of the file."""
        named = {"config.json": self.config, "tokenizer_config.json": self.tokenizer}
        return {name: facts for name, facts in (*named.items(), ("preprocessor_config.json", self.processor)) if facts}


_CHAT = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

CONVERSIONS: Mapping[str, Conversion] = {
    "efficientnet-lite0": Conversion(
        file="efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        config=LITE0,
        processor={
            "image_mean": [127 / 255] * 3,
            "image_std": [128 / 255] * 3,
            "size": {"height": 224, "width": 224},
        },
        pinned={"model.safetensors": "9df6ff5ee9709dbc872d161a2d3aebb0d3450ac2895decf5875a972af440a46b"},
    ),
    "smollm2": Conversion(
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        config={
            "architectures": ["LlamaForCausalLM"],
            "bos_token_id": 1,
            "dtype": "float32",
            "eos_token_id": 2,
            "head_dim": 64,
            "hidden_act": "silu",
            "hidden_size": 576,
            "intermediate_size": 1536,
            "max_position_embeddings": 8192,
            "model_type": "llama",
            "num_attention_heads": 9,
            "num_hidden_layers": 30,
            "num_key_value_heads": 3,
            "pad_token_id": 2,
            "rms_norm_eps": 1e-05,
            "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
            "tie_word_embeddings": True,
            "vocab_size": 49152,
        },
        tokenizer={
            "bos_token": "<|im_start|>",
            "chat_template": _CHAT,
            "eos_token": "<|im_end|>",
            "model_max_length": 8192,
            "pad_token": "<|im_end|>",
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": "<|endoftext|>",
        },
        needed=("accelerate", "gguf"),
        pinned={
            "model.safetensors": "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd",
            "tokenizer.json": "7e0b8f35ca7f836d92d824d9e3db5747c22d9a1e2753ccf2ec9af24a8614e979",
        },
    ),
}


def converted(alias: str, fetched: Path, cache: Path) -> Path:
    """The folder of a base: ``fetched`` itself, or what it is converted to, once in a cache.

    Guarantees: the folder holds exactly the pinned bytes; it is there whole or not at all; two processes do not disturb each
    other.

    Raises:
        ModelError: a package is missing, or what came out is not what is pinned.
    """
    wanted = CONVERSIONS.get(alias)
    if wanted is None:
        return fetched
    folder = cache / "bases" / f"{alias}-{wanted.digest[:12]}"
    if not folder.is_dir():
        _check_installed(alias, wanted.needed)
        with workspace(folder.parent) as work:
            if not folder.is_dir():
                _convert(wanted, fetched, work / "new")
                _check(alias, wanted, work / "new")
                (work / "new").rename(folder)
    return folder


def _check_installed(alias: str, needed: tuple[str, ...]) -> None:
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        what, rule = f"{', '.join(missing)} is not installed", f"{alias} is converted with the optional extra 'lm'"
        raise ModelError(what, value=alias, rule=rule, hint=INSTALL)


def _convert(wanted: Conversion, fetched: Path, into: Path) -> None:
    from safetensors.torch import save_file

    into.mkdir()
    read = _from_torch if wanted.file.endswith(".pth") else _from_gguf
    state = read(wanted, fetched, into)
    save_file(state, into / "model.safetensors", metadata={"format": "pt"})
    for name, facts in wanted.written.items():
        write_durably(into / name, json.dumps(facts, indent=2, sort_keys=True).encode() + b"\n")


def _from_torch(wanted: Conversion, fetched: Path, into: Path) -> "dict[str, Tensor]":
    """A network's weights without its last layer, which knows ImageNet's classes; names without leading underscores."""
    import torch

    del into
    found = digest_file(fetched / wanted.file)
    if found != wanted.sha256:
        raise ModelError(
            f"{wanted.file} is not the pinned one",
            value=found,
            rule=f"only a file whose sha256 is {wanted.sha256} is opened",
            hint=f"remove {fetched} and fetch it again",
        )
    loaded = torch.load(fetched / wanted.file, map_location="cpu", weights_only=True)
    named = {re.sub(r"(^|\.)_", r"\1", name): value.contiguous() for name, value in sorted(loaded.items())}
    return {name: value for name, value in named.items() if not name.startswith("fc.")}


def _from_gguf(wanted: Conversion, fetched: Path, into: Path) -> "dict[str, Tensor]":
    """The weights, and the tokenizer in its file."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model, tokenizer = _opened(fetched, wanted.file)
    (into / "tokenizer.json").write_text(tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
    tied = {"lm_head.weight"} if wanted.config["tie_word_embeddings"] else set[str]()
    return {name: value.contiguous() for name, value in sorted(model.state_dict().items()) if name not in tied}


def _opened(fetched: Path, file: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    given = {"gguf_file": file, "local_files_only": True, "trust_remote_code": False}
    model = AutoModelForCausalLM.from_pretrained(str(fetched), dtype=torch.float32, **given)
    return cast(Any, model), AutoTokenizer.from_pretrained(str(fetched), **given)


def _check(alias: str, wanted: Conversion, folder: Path) -> None:
    for name, sha256 in wanted.pinned.items():
        found = digest_file(folder / name)
        if found != sha256:
            raise ModelError(
                f"{alias} did not come out as it should: {name} has another digest",
                value=found,
                rule=f"its sha256 is {sha256}, so that partners have the same base",
                hint=f"use the tested versions: {INSTALL}"
                if wanted.needed
                else "fetch it again, and update fedrelease",
            )
