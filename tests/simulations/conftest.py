"""What tests of whole runs share: one federation, and one run of it that nobody disturbed."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from federations import Federation, write_federation

from fedrelease.simulations.simulate import Summary


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """The reference: how the federation ends when nothing happens to it."""

    summary: Summary
    digest: str
    spent: dict[str, float]
    ledgers: dict[str, bytes]


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Federation:
    return write_federation(tmp_path_factory.mktemp("federation"), tiny_base)


@pytest.fixture(scope="session")
def undisturbed(federation: Federation) -> Undisturbed:
    summary = federation.simulate("undisturbed", workers=1)
    return Undisturbed(
        summary=summary,
        digest=federation.digest("undisturbed"),
        spent=federation.spent("undisturbed"),
        ledgers=federation.ledger_bytes("undisturbed"),
    )
