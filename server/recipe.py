"""The few lines with which anybody opens an export with ``transformers``, ``peft`` and ``safetensors`` alone.

Example::

    print(recipe("sentence-transformers/all-MiniLM-L6-v2", Pooling(), max_length=128, merged=False))
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedrelease.data.prompts import SEPARATOR
from fedrelease.experiment import Data
from fedrelease.models.bases import Pooling
from fedrelease.tasks import TASKS

__all__ = ["RECIPES", "Given", "encoder_recipe", "language_recipe", "recipe", "sequence_recipe"]

TEXT = "a warm and funny film"
SECOND = "it is worth seeing twice"
LAST = {"multi-label-classification": "scores = torch.sigmoid(logits)[0]", "regression": "number = float(logits)"}
"""Of tasks that do not choose the largest logit."""
POOLED = {"mean": "hidden.mean(1)", "first": "hidden[:, 0]", "max": "hidden.amax(1)", "last": "hidden[:, -1]"}
"""Of one text, which has no padding: a vector of the tokens' vectors, as ``fedrelease.models.classifier.pool`` makes it."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a text is given to the base with.

    Attributes:
        segmented: the base tells the tokens of two texts apart.
        before: vectors of a prompt, put before the text by peft, which are no tokens of it.
    """

    task: str = "text-classification"
    segmented: bool = False
    before: int = 0


PLAINLY = Given()


def recipe(base: str, pooling: Pooling | None, given: Given = PLAINLY, *, max_length: int, merged: bool) -> str:
    """Python that ends with ``logits``, float32 ``[1, labels]``, of one text; at most twelve lines.

    Without ``pooling`` they are of each token, ``[1, tokens, labels]``. What a task makes of them is the last line.

    The precision is named because transformers would take that of the base's file.
    """
    if pooling is None and merged:
        return _tagger(max_length)
    imports = ["import torch", *([] if merged else ["from peft import PeftModel"])]
    imports += ["from safetensors.torch import load_file", "from transformers import AutoModel, AutoTokenizer", ""]
    vector = POOLED[pooling.mode] if pooling else "hidden"
    if pooling and pooling.normalise:
        vector = f"torch.nn.functional.normalize({vector}, dim=-1)"
    opened = 'AutoModel.from_pretrained(".", dtype=torch.float32).eval()'
    if not merged:
        inner = f'AutoModel.from_pretrained("{base}", dtype=torch.float32)'
        opened = f'PeftModel.from_pretrained({inner}, ".").eval()'
    cut = f"[:, {given.before}:]" if given.before else ""
    texts = f'"{TEXT}", "{SECOND}"' if TASKS[given.task].pairs else f'"{TEXT}"'
    told = ', token_type_ids=row["token_type_ids"]' if given.segmented else ""
    asked = ", return_token_type_ids=True" if given.segmented else ""  # not every tokenizer gives them unasked
    lines = [
        f"model = {opened}",
        'tokenizer, head = AutoTokenizer.from_pretrained("."), load_file("head.safetensors")',
        f'row = tokenizer({texts}, truncation=True, max_length={max_length}{asked}, return_tensors="pt")',
        f'hidden = model(input_ids=row["input_ids"], attention_mask=row["attention_mask"]{told}).last_hidden_state{cut}',
        f'logits = {vector} @ head["weight"].T + head["bias"]',
        *([LAST[given.task]] if given.task in LAST else []),
    ]
    return "\n".join([*imports, *lines])


def _tagger(max_length: int) -> str:
    lines = [
        "import torch",
        "from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline",
        "",
        'model = AutoModelForTokenClassification.from_pretrained(".", dtype=torch.float32).eval()',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        f'row = tokenizer("{TEXT}", truncation=True, max_length={max_length}, return_tensors="pt")',
        'logits = model(input_ids=row["input_ids"], attention_mask=row["attention_mask"]).logits',
        'names = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="first")',
    ]
    return "\n".join(lines)


def language_recipe(data: Data, *, merged: bool) -> str:
    """Python that ends with ``text``: how a text goes on, or what answers a prompt; on the base that the adapter names."""
    return _told("ForCausalLM", _beginning(data), merged=merged)


def sequence_recipe(data: Data, *, merged: bool) -> str:
    """The same for a text that is written for another one."""
    del data
    return _told("ForSeq2SeqLM", _row("a long story"), merged=merged)


def _told(kind: str, row: str, *, merged: bool) -> str:
    library, kind = ("transformers", f"AutoModel{kind}") if merged else ("peft", f"AutoPeftModel{kind}")
    imports = f"from {library} import {kind}\nfrom transformers import AutoTokenizer"
    imports = f"from transformers import {kind}, AutoTokenizer" if merged else imports
    lines = [
        "import torch",
        imports,
        "",
        f'model = {kind}.from_pretrained(".", dtype=torch.float32).eval()',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        row,
        "told = model.generate(**row, max_new_tokens=40, do_sample=False, num_beams=1)",
        "text = tokenizer.decode(told[0], skip_special_tokens=True)",
    ]
    return "\n".join(lines)


def _beginning(data: Data) -> str:
    """The line that makes ``row``: as what was trained on begins."""
    if data.chat:
        turns = '[{"role": "user", "content": "Who wrote Emma?"}]'
        given = 'add_generation_prompt=True, return_dict=True, return_tensors="pt"'
        return f"row = tokenizer.apply_chat_template({turns}, {given})"
    text = "My fellow citizens," if data.prompt is None else f"Who wrote Emma?{SEPARATOR}"
    return _row(text)


def _row(text: str) -> str:
    return f'row = tokenizer({json.dumps(text)}, return_tensors="pt", return_token_type_ids=False)'


def encoder_recipe(data: Data, *, merged: bool) -> str:
    """Python that ends with ``hidden``: a vector a token; the folder is a base of ``[model] base`` too."""
    del data, merged
    lines = [
        "import torch",
        "from transformers import AutoModel, AutoTokenizer",
        "",
        'model = AutoModel.from_pretrained(".", dtype=torch.float32).eval()',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        f'row = tokenizer("{TEXT}", return_tensors="pt")',
        'hidden = model(input_ids=row["input_ids"], attention_mask=row["attention_mask"]).last_hidden_state',
    ]
    return "\n".join(lines)


RECIPES: Mapping[str, Callable[..., str]] = {
    "causal-lm": language_recipe,
    "masked-lm": encoder_recipe,
    "seq2seq": sequence_recipe,
}
"""By task, for those that have no head of their own."""
