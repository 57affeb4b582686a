"""What hostile sites of a simulation do; a deployment has no code for it.

Example::

    Attack(kind="sign-flip", share=0.2)
    Attack(kind="backdoor", trigger="cf mn", target="ham")
"""

import math
from dataclasses import dataclass

from fedrelease.bounds import one_of, require

__all__ = ["Attack"]

STRENGTHS = {
    "backdoor": 0.5,
    "free-rider": 1e-3,
    "gaussian": 10.0,
    "inner-product": 1.0,
    "label-flip": 1.0,
    "little-is-enough": 1.5,
    "scaling": 100.0,
    "sign-flip": 5.0,
}
KINDS = (*STRENGTHS, "none")
SHARES_OF_ROWS = ("backdoor", "label-flip")
"""Kinds that change a hostile site's training rows; their strength is a share of them."""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Which sites are hostile, and how; ``docs/attacks.md`` says what each kind is.

    Attributes:
        kind: of attack; ``none`` = all sites are honest.
        share: of all sites, rounded to a whole number of them; always the same sites in a federation.
        strength: what it means depends on the kind; left out = the kind's own default.
        trigger: of a backdoor: what is put at the end of a row.
        target: of a backdoor: the label that rows with the trigger shall get; left out = the first of ``model.labels``.
    """

    kind: str = "none"
    share: float = 0.2
    strength: float | None = None
    trigger: str = "cf mn"
    target: str | None = None

    def __post_init__(self) -> None:
        """Check bounds."""
        one_of("attack.kind", self.kind, KINDS)
        require(0 <= self.share <= 0.5, "attack.share", self.share, "is between 0 and 0.5")
        require(bool(self.trigger.strip()), "attack.trigger", self.trigger, "is a text that is not empty")
        if self.strength is not None:
            most = 1.0 if self.kind in SHARES_OF_ROWS else math.inf
            fits = math.isfinite(self.strength) and 0 <= self.strength <= most
            rule = "is a share of the rows, 0 to 1" if most == 1.0 else "is a number of at least 0"
            require(fits, "attack.strength", self.strength, rule)
        own = (self.share, self.strength, self.trigger, self.target)
        used = own != (0.2, None, "cf mn", None)
        rule, hint = "is set where another key of the section is", "set it, for example to sign-flip"
        require(self.kind != "none" or not used, "attack.kind", self.kind, rule, hint)

    @property
    def poisons_rows(self) -> bool:
        """Whether hostile sites train on changed rows; with the other kinds they change what they send."""
        return self.kind in SHARES_OF_ROWS

    @property
    def force(self) -> float:
        """The strength, or the kind's own default."""
        return STRENGTHS[self.kind] if self.strength is None else self.strength
