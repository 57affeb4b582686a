"""What becomes of a site's rows while it trains: each is changed a little, at random, anew in every step.

Example::

    Augment(tokens=0.1)                  # a tenth of a text's tokens becomes the mask
    Augment(flip=True, shift=3)          # images: mirrored or not, and up to 3 pixels away
"""

from dataclasses import dataclass

from fedrelease.bounds import require

__all__ = ["Augment"]

FARTHEST = 64


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of training rows; hold-outs stay as they are.

    Attributes:
        tokens: share of a text's tokens, special ones aside, that become the base's mask token; where it has none, its token for
            what it does not know.
        flip: half of the images are mirrored, left for right.
        shift: an image moves by up to so many pixels in height and in width; what comes in is black.
    """

    tokens: float = 0.0
    flip: bool = False
    shift: int = 0

    def __post_init__(self) -> None:
        """Check bounds."""
        require(0 <= self.tokens < 1, "training.augment.tokens", self.tokens, "is at least 0 and below 1")
        rule = f"is between 0 and {FARTHEST}"
        require(0 <= self.shift <= FARTHEST, "training.augment.shift", self.shift, rule)

    @property
    def changes_images(self) -> bool:
        """Whether images are changed."""
        return self.flip or self.shift > 0
