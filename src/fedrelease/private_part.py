"""Which tensors of a state stay with their site, where a strategy says so: the site and the server go by one list.

Example::

    private_names(state, "lora_B")          # ('encoder.layer.5.attention.self.query.lora_B', ...)
    private_names(state, None)              # ()
"""

from collections.abc import Iterable, Mapping

from fedrelease.factors import OWN_FIRST, OWN_SECOND, SECOND

__all__ = ["PRIVATE_PARTS", "private_names"]

PRIVATE_PARTS: Mapping[str, tuple[str, ...]] = {
    "head": ("head.bias", "head.weight"),
    "lora_B": (SECOND,),
    "second-adapter": (OWN_FIRST, OWN_SECOND),
}
"""What the directive ``private`` may say, and what the names of the tensors that it speaks of end in."""


def private_names(names: Iterable[str], part: str | None) -> tuple[str, ...]:
    """Those of ``names`` that belong to the part, sorted; none where there is no part."""
    return tuple(sorted(name for name in names if part and name.endswith(PRIVATE_PARTS[part])))
