"""The few lines with which anybody opens an export with ``transformers``, ``peft`` and ``safetensors`` alone.

Example::

    print(recipe("sentence-transformers/all-MiniLM-L6-v2", Pooling(), max_length=128, merged=False))
"""

from fedrelease.models.bases import Pooling

__all__ = ["recipe"]

POOLED = {"mean": "hidden.mean(1)", "first": "hidden[:, 0]", "max": "hidden.amax(1)", "last": "hidden[:, -1]"}
"""Of one text, which has no padding: a vector of the tokens' vectors, as ``fedrelease.models.classifier.pool`` makes it."""


def recipe(base: str, pooling: Pooling, *, max_length: int, merged: bool) -> str:
    """Python that ends with ``logits``, float32 ``[1, labels]``, of one text; at most twelve lines.

    The precision is named because transformers would take that of the base's file.
    """
    imports = ["import torch", *([] if merged else ["from peft import PeftModel"])]
    imports += ["from safetensors.torch import load_file", "from transformers import AutoModel, AutoTokenizer", ""]
    vector = POOLED[pooling.mode]
    if pooling.normalise:
        vector = f"torch.nn.functional.normalize({vector}, dim=-1)"
    opened = 'AutoModel.from_pretrained(".", dtype=torch.float32).eval()'
    if not merged:
        inner = f'AutoModel.from_pretrained("{base}", dtype=torch.float32)'
        opened = f'PeftModel.from_pretrained({inner}, ".").eval()'
    lines = [
        f"model = {opened}",
        'tokenizer, head = AutoTokenizer.from_pretrained("."), load_file("head.safetensors")',
        f'row = tokenizer("a warm and funny film", truncation=True, max_length={max_length}, return_tensors="pt")',
        'hidden = model(input_ids=row["input_ids"], attention_mask=row["attention_mask"]).last_hidden_state',
        f'logits = {vector} @ head["weight"].T + head["bias"]',
    ]
    return "\n".join([*imports, *lines])
