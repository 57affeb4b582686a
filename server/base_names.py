"""What a base is called outside: never the path of somebody's machine.

Example::

    public_name(open_base("minilm", cache=cache_folder()))   # 'sentence-transformers/all-MiniLM-L6-v2'
"""

import re
from pathlib import Path

from fedrelease.models.bases import Base

__all__ = ["hub_id", "public_name"]

HUB = {"minilm": "sentence-transformers/all-MiniLM-L6-v2"}
"""Hub ids of the bases that are fetched by an alias; their files are the same."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def hub_id(ref: str) -> str | None:
    """The id under which the Hugging Face hub has a base; ``None`` for a folder or a network described by its widths."""
    if ref in HUB:
        return HUB[ref]
    return ref if _HUB_ID.fullmatch(ref) and not Path(ref).exists() else None


def public_name(base: Base) -> str:
    """Its hub id, else the last part of its path: the rest is of no use elsewhere."""
    return hub_id(base.ref) or Path(base.ref).name
