"""What is kept about an export: an attachment of its release, so that anybody can tell an exported file by its sha256.

Example::

    attach_variant(store, variant)                           # by the writer of the store
    [variant.format for variant in variants_of(release)]     # ['hf', 'onnx']: the newest of each
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fedrelease import facts
from fedrelease.errors import StoreError
from fedrelease.files import Json
from fedrelease.manifest import check_digest, check_sha256
from fedrelease.server.attachments import attachments, put_attachment
from fedrelease.server.gates.contract import Finding, finding_json, worst_state
from fedrelease.server.release import Release
from fedrelease.server.store import Store

__all__ = ["KIND", "SCHEMA", "Variant", "attach_variant", "variants_of"]

KIND = "variant"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One release in one format.

    Attributes:
        version, digest: of the release.
        format: ``hf``, ``hf-merged``, ``onnx``, ``int8`` or ``safetensors``.
        files: sha256 of each file of the folder by POSIX path, but for ``export.json``, which lists the same, and a signature.
        size_bytes: of all of them.
        rows: what it was checked on, in words.
        measured: numbers by name, all finite.
        findings: of its gate.

    Guarantees: ``facts.from_bytes(Variant, facts.to_bytes(variant)) == variant``.
    """

    version: str
    digest: str
    format: str
    files: Mapping[str, str]
    size_bytes: int
    rows: str
    measured: Mapping[str, float]
    findings: tuple[Finding, ...]
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Check bounds."""
        if self.schema != SCHEMA:
            hint = "update fedrelease" if self.schema > SCHEMA else ""
            raise StoreError("unknown schema of a variant", value=self.schema, rule=f"this is {SCHEMA}", hint=hint)
        check_digest(self.digest)
        for sha256 in self.files.values():
            check_sha256(sha256)

    @property
    def verdict(self) -> str:
        """``pass``, ``inconclusive``, ``fail`` or ``error``: the worst state of the findings that block."""
        return worst_state(self.findings)

    @property
    def servable(self) -> bool:
        """Its gate passed; any other variant is kept as a file, and is not to be used in the release's place."""
        return self.verdict == "pass"

    def to_json(self) -> dict[str, Json]:
        """What ``--json`` prints."""
        return {
            "format": self.format,
            "verdict": self.verdict,
            "servable": self.servable,
            "files": dict(self.files),
            "size_bytes": self.size_bytes,
            "rows": self.rows,
            "measured": dict(self.measured),
            "findings": [finding_json(finding) for finding in self.findings],
        }


def attach_variant(store: Store, variant: Variant) -> None:
    """Keep it beside its release; the caller holds the store's lock. The same one again changes nothing."""
    put_attachment(store.folder, variant.digest, KIND, facts.to_bytes(variant))


def variants_of(release: Release) -> tuple[Variant, ...]:
    """The newest variant of each format, in the order of the formats' names.

    Raises:
        DamagedRelease: one of them is not what was attached.
    """
    found = [facts.from_bytes(Variant, one.read()) for one in attachments(release.root, release.digest, KIND)]
    newest = {variant.format: variant for variant in found}
    return tuple(newest[format] for format in sorted(newest))
