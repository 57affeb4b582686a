"""Every error a user can meet, as one tree.

::

    FedreleaseError                 exit 1
    +-- ExperimentError             exit 2: the TOML, a --set or a command line is wrong
    +-- FetchError                  a package could not be fetched or has the wrong digest
    +-- DataError                   a source, a row or a site's data cannot be used
    +-- ModelError                  a base does not load or does not fit the task
    |   +-- NoBase                  what a round added follows from its base, which is not here
    +-- StoreError                  the release store refuses
    |   +-- StoreBusy               somebody else holds the store
    |   +-- ReleaseNotFound         no such version
    |   +-- DamagedRelease          bytes differ from their digest
    |   +-- RetiredRelease          its weights were removed by the rules of retention
    |   +-- SignatureError            a key or a signature is missing, wrong, or not trusted
    +-- PrivacyError                a privacy rule would be broken
    |   +-- BudgetExceeded          the site's ledger has no room for what was asked
    +-- PolicyRefused               a site's own rules forbid what was asked
    +-- IdentityError               a certificate, an invitation or a site's identity is not in order
    +-- UpdateRefused               screening refused a site's answer
    +-- RoundFailed                 too few sites answered in time
    +-- EngineError                 what runs the sites of a simulation failed, or is not there

Example::

    raise DataError("rating is not a number", value="abc", rule="column 'label' must be in labels",
                    hint="mend tweets.csv line 12, or name another column with [data] label")
"""

from collections.abc import Mapping

__all__ = [
    "BudgetExceeded",
    "DamagedRelease",
    "DataError",
    "EngineError",
    "ExperimentError",
    "FedreleaseError",
    "FetchError",
    "IdentityError",
    "ModelError",
    "NoBase",
    "PolicyRefused",
    "PrivacyError",
    "ReleaseNotFound",
    "RetiredRelease",
    "RoundFailed",
    "SignatureError",
    "StoreBusy",
    "StoreError",
    "UpdateRefused",
]


class FedreleaseError(Exception):
    """What went wrong, the value that was given, the rule it broke, and the way out."""

    exit_code = 1

    def __init__(self, what: str, *, value: object = None, rule: str = "", hint: str = "") -> None:
        """Keep the four parts; ``str(error)`` joins them into one readable text."""
        self.what, self.value, self.rule, self.hint = what, value, rule, hint
        super().__init__(what)

    def __str__(self) -> str:
        """All parts in the order in which a reader wants them."""
        given = f" Given: {self.value!r}." if self.value is not None else ""
        rule = f" Rule: {self.rule}." if self.rule else ""
        hint = f" Try: {self.hint}." if self.hint else ""
        return f"{self.what}.{given}{rule}{hint}"

    def to_json(self) -> Mapping[str, str | None]:
        """The ``error`` object of ``--json`` output."""
        value = None if self.value is None else str(self.value)
        return {"what": self.what, "value": value, "rule": self.rule, "hint": self.hint}


class ExperimentError(FedreleaseError):
    """The experiment file, an override or the command line is wrong."""

    exit_code = 2


class FetchError(FedreleaseError):
    """A package could not be fetched, or its digest is not the pinned one."""


class DataError(FedreleaseError):
    """A source, a row or a site's data cannot be used."""


class ModelError(FedreleaseError):
    """A base does not load, or does not fit the task."""


class NoBase(ModelError):
    """What a round added follows from its base, and that is not here."""


class StoreError(FedreleaseError):
    """The release store refuses."""


class StoreBusy(StoreError):
    """Another run holds the store."""


class ReleaseNotFound(StoreError):
    """The store has no such version."""


class DamagedRelease(StoreError):
    """The bytes of a release differ from their digest."""


class RetiredRelease(StoreError):
    """The weights of a release were removed by the store's rules of retention."""


class SignatureError(StoreError):
    """A key or a signature is missing, wrong, or not trusted."""


class PrivacyError(FedreleaseError):
    """A privacy rule would be broken."""


class BudgetExceeded(PrivacyError):
    """The site's ledger has no room for what was asked."""


class PolicyRefused(FedreleaseError):
    """A site's own rules forbid what was asked. The text may leave the site: it has rules and requests, and nothing of rows."""


class IdentityError(FedreleaseError):
    """A certificate, an invitation or a site's identity is not in order."""


class UpdateRefused(FedreleaseError):
    """Screening refused a site's answer."""


class RoundFailed(FedreleaseError):
    """Too few sites answered in time."""


class EngineError(FedreleaseError):
    """What runs the sites of a simulation failed, or is not there."""
