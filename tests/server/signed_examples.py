"""What the tests of signatures share."""

from pathlib import Path

from fedrelease.server.signed_store import SignedStore, signed_store
from fedrelease.server.signing import Signer
from fedrelease.server.store import Store
from fedrelease.server.verify import Report


def signed_of(store: Store) -> SignedStore:
    signed = signed_store(store.folder)
    assert signed is not None
    return signed


def whats(report: Report) -> str:
    return "; ".join(f"{problem.path}: {problem.what}" for problem in report.problems)


def rewrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def forget(signer: Signer) -> None:
    """All that was seen of any store."""
    for record in (signer.home / "stores").glob("*.json"):
        record.unlink()
