"""What EfficientNet-lite0 is made of, as its ``config.json`` says; needs no torch, as it is looked up wherever bases are named.

Example::

    LITE0["stages"][0]                       # [1, 3, 1, 1, 16]: blocks, kernel, stride of the first, expansion, channels
"""

from typing import TypeAlias

from fedrelease.files import Json

__all__ = ["KIND", "LITE0", "STAGES", "Stage"]

Stage: TypeAlias = tuple[int, int, int, int, int]
STAGES: tuple[Stage, ...] = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, kernel, stride of the first block, expansion, channels."""
KIND = "efficientnet-lite"
LITE0: dict[str, Json] = {
    "hidden_size": 1280,
    "image_size": 224,
    "model_type": KIND,
    "num_channels": 3,
    "num_hidden_layers": sum(stage[0] for stage in STAGES),
    "stages": [list(stage) for stage in STAGES],
}
