"""What docs/compatibility.md says, cell by cell, and the models that it speaks of."""

import re
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from fedrelease.client.compatibility.bases import MAKES
from fedrelease.experiment import Adapter, Model
from fedrelease.models.bases import Base, open_base
from fedrelease.models.classifier import load_state, trainable_state
from fedrelease.models.tasks import Classifier, build_model

PAGE = (Path(__file__).parents[1] / "docs" / "compatibility.md").read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """``says``: what the page has at a task, an adapter and a base, such as ``formed`` or ``no (1)``."""

    task: str
    adapter: str
    base: str
    says: str

    def __str__(self) -> str:
        return f"{self.task}-{self.adapter}-{self.base}"


def section(task: str) -> str:
    """A task's heading, table and notes, as the command prints them."""
    found = re.search(rf"^(### {re.escape(task)}\n.*?)\n*(?=^### |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, (
        f"docs/compatibility.md lacks {task}: fedrelease compatibility --format markdown --task {task}"
    )
    return found[1].rstrip("\n") + "\n"


def cells() -> list[Cell]:
    """All of the page."""
    found = []
    for task in re.findall(r"^### ([\w-]+)$", PAGE, re.MULTILINE):
        header, _, *lines = (
            line.strip("| ").split(" | ") for line in section(task).splitlines() if line.startswith("|")
        )
        for adapter, *says in lines:
            pairs = zip(header[1:], says, strict=True)
            found += [Cell(task=task, adapter=adapter.strip("`"), base=base, says=one) for base, one in pairs]
    return found


@cache
def tiny(make: str) -> Base:
    """A tiny base, written once."""
    folder = Path(tempfile.mkdtemp(prefix="fedrelease-bases-"))
    return open_base(MAKES[make].make(folder / make), cache=folder)


def built(cell: Cell) -> Classifier:
    """A model whose every trained number differs from its neighbours and is not zero; each time the same one."""
    base = tiny(cell.base)
    model = build_model(base, Model(base=base.ref, task=cell.task, adapter=Adapter(kind=cell.adapter)), seed=3)
    numbers = torch.Generator().manual_seed(5)
    state = trainable_state(model)
    load_state(model, {n: t + 0.2 * torch.randn(t.shape, generator=numbers) for n, t in state.items()})
    return model.eval()
