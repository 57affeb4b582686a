"""Control variates: what a site remembers between rounds, so that its many local steps do not drift towards its own optimum.

Example::

    carried = open_variate(site.home, request, state, companions)       # before the round; zeros in a site's first
    carried.correction                                                 # what each gradient gets
    carried.end(state, trained, mean_gradient)                         # kept on disk; what goes back to the server

Guarantees: a variate, and all that is sent of it, is a function of trained states and of gradients as the optimizer got them:
with privacy clipped, noised, and paid for. It costs nothing more (post-processing), and may leave the site as those may.

How variates lie on disk, and what a round that is asked again starts from: :mod:`fedrelease.client.left_behind`.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedrelease.client.correction import Correction
from fedrelease.client.directives import parse_directives
from fedrelease.client.left_behind import Shelf, shelf_of
from fedrelease.errors import ModelError
from fedrelease.messages import Request
from fedrelease.update import State

__all__ = ["Carried", "check_companions", "next_variate", "open_variate"]

COMPANION = "variate"
"""The kind under which SCAFFOLD's variates travel: the server's ``c`` to the sites, the change of each ``c_i`` back."""


@dataclass(frozen=True, kw_only=True)
class Carried:
    """A site's variate at the start of a round.

    Attributes:
        kind: ``scaffold`` or ``feddyn``. alpha: FedDyn's.
        own: the site's variate. servers: SCAFFOLD's ``c``; empty for FedDyn.
        shelf: where the variate after this round goes.
    """

    kind: str
    alpha: float
    own: State
    servers: State
    shelf: Shelf

    @property
    def correction(self) -> Correction:
        """SCAFFOLD: ``c - c_i``. FedDyn: minus the site's linear term, and a pull of ``alpha``."""
        if self.kind == "scaffold":
            return Correction(shift={name: self.servers[name] - own for name, own in self.own.items()})
        return Correction(pull=self.alpha, shift={name: -own for name, own in self.own.items()})

    def end(self, began: State, trained: State, mean_gradient: State) -> dict[str, Tensor]:
        """Keep the variate after the round durably, and return the companions of the answer."""
        after = next_variate(self, began, trained, mean_gradient)
        self.shelf.keep(after)
        if self.kind == "feddyn":
            return {}
        return {f"{COMPANION}/{name}": value - self.own[name] for name, value in after.items()}


def next_variate(carried: Carried, began: State, trained: State, mean_gradient: State) -> dict[str, Tensor]:
    """The site's variate after the round, by canonical name, of the state's shapes.

    SCAFFOLD: the mean gradient of the round's steps. With plain gradient descent of constant rate that is option II,
    ``c_i - c + (x - y_i) / (K lr)``, rounding aside; momentum, Adam or a falling rate would falsify that difference, and not the
    mean. FedDyn: ``own - alpha * (trained - began)``.

    Source: Karimireddy et al. (2020), https://arxiv.org/abs/1910.06378, algorithm 1, line 12; Acar et al. (2021),
    https://arxiv.org/abs/2111.04263, algorithm 1.
    """
    if carried.kind == "scaffold":
        return {name: mean_gradient.get(name, torch.zeros_like(own)) for name, own in carried.own.items()}
    return {name: own - carried.alpha * (trained[name] - began[name]) for name, own in carried.own.items()}


def check_companions(request: Request, state: State, companions: State) -> None:
    """Refuse companions that the directives do not speak of, or that do not fit the state.

    Raises:
        ModelError: the text names the first that is too many, is missing, or has another shape.
    """
    scaffold = parse_directives(request.directives).variate == "scaffold"
    expected = {f"{COMPANION}/{name}": tensor.shape for name, tensor in state.items()} if scaffold else {}
    for name in sorted(expected.keys() | companions.keys()):
        if name not in expected or name not in companions or companions[name].shape != expected[name]:
            raise ModelError(
                "the server's companions are not those of its directives",
                value=name,
                rule="with variate = scaffold one for each tensor of the state, of its shape; none without",
                hint="update this site, or the server",
            )


def open_variate(home: Path, request: Request, state: State, companions: State) -> Carried | None:
    """The site's variate before this round, or ``None`` where the strategy has none.

    Raises:
        DataError: what lies in the site's folder does not fit the state.
        UpdateRefused: it cannot be read.
    """
    directives = parse_directives(request.directives)
    if directives.variate is None:
        return None
    shelf = shelf_of(home / "variates", directives.variate, request)
    before = shelf.before()
    return Carried(
        kind=directives.variate,
        alpha=directives.alpha,
        own=_own(shelf, before, state)
        if before
        else {name: torch.zeros_like(tensor) for name, tensor in state.items()},
        servers={name.removeprefix(f"{COMPANION}/"): value for name, value in companions.items()},
        shelf=shelf,
    )


def _own(shelf: Shelf, before: Path, state: State) -> dict[str, Tensor]:
    zeros = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    return shelf.read(before, like=zeros, what="control variate", without="a variate of zeros")
