"""In which form updates travel from sites to the server, and states from the server to sites.

Example::

    Transport(codec="int8")                       # a quarter of the bytes
    Transport(down="float16")                     # states go to sites in half precision
    Transport(codec="top-k", keep=0.01)           # the largest hundredth; what is left out is sent in a later round
"""

from dataclasses import dataclass

from fedrelease.bounds import one_of, require

__all__ = ["CODECS", "DOWN", "Transport"]

CODECS = ("float16", "float32", "int4", "int8", "top-k")
DOWN = ("float16", "float32")
PLAIN = "float32"


@dataclass(frozen=True, kw_only=True)
class Transport:
    """What travels up is the difference between what a site trained and what it received, in the codec's form.

    Attributes:
        codec: ``float32`` = the trained numbers as they are; :mod:`fedrelease.codecs` says what the others do.
        block: numbers that share a scale, with ``int8`` and ``int4``.
        keep: share of the numbers that are sent, with ``top-k``.
        error_feedback: each site keeps what its codec left out, and adds it to what it sends in the next round that asks it.
            Without it, as for sites that are virtual, ``int8`` and ``int4`` round at random: they are right on average.
        down: ``float16`` = a state goes to the sites in half precision, to train from and to look at: :mod:`fedrelease.downlink`.
    """

    codec: str = PLAIN
    block: int = 64
    keep: float = 0.05
    error_feedback: bool = True
    down: str = PLAIN

    def __post_init__(self) -> None:
        """Check bounds."""
        one_of("transport.codec", self.codec, CODECS)
        one_of("transport.down", self.down, DOWN)
        require(8 <= self.block <= 4096, "transport.block", self.block, "is between 8 and 4096")
        require(0 < self.keep <= 1, "transport.keep", self.keep, "is above 0 and at most 1")
        rule, hint = "is another than float32 where a key of the section is set", "set it, for example to int8"
        used = (self.block, self.keep, self.error_feedback) != (64, 0.05, True)
        require(self.is_coded or not used, "transport.codec", self.codec, rule, hint)

    @property
    def is_coded(self) -> bool:
        """Whether updates travel in another form than they are computed in."""
        return self.codec != PLAIN

    @property
    def is_narrow(self) -> bool:
        """Whether states travel down in half precision."""
        return self.down != PLAIN
