"""How sure a trained state is of each of its numbers: the diagonal of the empirical Fisher information on a site's rows.

Example::

    companions = fisher_of(model, site.data.train, micro_batch=32)       # {"fisher/head.bias": ...}

Computed from every training row, without noise: a site with privacy never tells it.
"""

import torch
from torch import Tensor, nn

from fedrelease.adapter import ADAPTER_KINDS, OWN_WEIGHTS
from fedrelease.client.training import summed_loss
from fedrelease.data.row_files import Rows
from fedrelease.errors import ModelError
from fedrelease.models.bookkeeping import keeps_books
from fedrelease.models.classifier import canonical_name
from fedrelease.models.per_example import forget_gradients, per_example

__all__ = ["check_fisher", "fisher_of"]

COMPANION = "fisher"
FORMED = tuple(kind for kind in ADAPTER_KINDS if kind not in OWN_WEIGHTS)
"""Adapters whose gradients are small enough to be formed by example."""


def check_fisher(model: nn.Module) -> None:
    """Refuse a model whose gradients are never formed by example.

    Raises:
        ModelError: weights of the base itself are trained.
    """
    if keeps_books(model):
        raise ModelError(
            "the strategy asks for squared gradients by example, which this model does not form",
            value="tell_fisher = true",
            rule=f"model.adapter.kind is one of {', '.join(FORMED)}, or the model a small network",
            hint="choose another strategy, such as fedavg",
        )


def fisher_of(model: nn.Module, rows: Rows, *, micro_batch: int) -> dict[str, Tensor]:
    """The mean over rows of each gradient's square at the model's state, float32, by ``fisher/<canonical name>``.

    Gradients are of the loss of a row's own label. Source: Matena and Raffel (2022), https://arxiv.org/abs/2111.09832, section
    3; with the labels that there are, and not drawn ones: Kunstner et al. (2019), https://arxiv.org/abs/1905.12558, equation 3.
    """
    trained = {canonical_name(name): value for name, value in model.named_parameters() if value.requires_grad}
    sums = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in trained.items()}
    model.eval()
    try:
        with per_example(model):
            for piece in torch.split(torch.arange(len(rows)), micro_batch):
                torch.autograd.backward(summed_loss(model, rows, piece))
                for name, value in trained.items():
                    sums[name] += value.grad_sample.double().square().sum(0)  # type: ignore[attr-defined]  # Opacus' name
                forget_gradients(model)
    finally:
        forget_gradients(model)
    return {f"{COMPANION}/{name}": (total / len(rows)).float() for name, total in sums.items()}
