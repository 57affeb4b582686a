"""A small network on vectors, such as the pixels of an image, trained from nothing: every weight is in its state.

Example::

    model = build_network(open_base("mlp:784-64", cache=cache_folder()), experiment.model, seed=7)
    model(torch.zeros(2, 784))                       # float32 [2, labels]
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from fedrelease.errors import ModelError
from fedrelease.experiment import Model
from fedrelease.models.bases import Base
from fedrelease.models.per_example import Head

__all__ = ["Network", "build_network"]


class Network(nn.Module):
    """Linear layers with rectifiers between them; the last one, the head, has one output a label."""

    task = "image-classification"

    def __init__(self, widths: tuple[int, ...], labels: int) -> None:
        """``widths``: of the input and of each hidden layer."""
        super().__init__()
        self.hidden = nn.ModuleList(Head(before, after) for before, after in pairwise(widths))
        self.head = Head(widths[-1], labels)
        self.width = widths[0]

    def draw(self, seed: int) -> None:
        """Put every weight where training starts: uniform within 1 / sqrt(inputs), following from ``seed`` alone."""
        generator = torch.Generator().manual_seed(seed)
        for layer in (*self.hidden, self.head):
            bound = 1 / math.sqrt(layer.in_features)
            for parameter in (layer.weight, layer.bias):
                nn.init.uniform_(parameter, -bound, bound, generator=generator)

    @property
    def dtype(self) -> torch.dtype:
        """float32: what is trained is never less exact."""
        return self.head.weight.dtype

    def forward(self, features: Tensor) -> Tensor:
        """Logits, float32 ``[rows, labels]``, of float32 ``[rows, width]``.

        Raises:
            ModelError: the rows have another width.
        """
        if features.shape[-1] != self.width:
            raise ModelError(
                "the rows do not fit the base",
                value=f"{features.shape[-1]} numbers a row",
                rule=f"the base takes {self.width}",
                hint=f'set [model] base = "mlp:{features.shape[-1]}-..."',
            )
        for layer in self.hidden:
            features = torch.relu(layer(features))
        logits: Tensor = self.head(features)
        return logits


def build_network(base: Base, model: Model, *, seed: int) -> Network:
    """The network that ``base`` describes, with weights drawn from ``seed`` alone.

    Weights and biases are uniform within 1 / sqrt(inputs), torch's own choice for linear layers.

    Raises:
        ModelError: the base is no such network, or an adapter other than ``full`` is asked for.
    """
    if base.architecture is None or model.adapter.kind != "full":
        raise ModelError(
            "this base and adapter do not train images",
            value=f"{model.base} with {model.adapter.kind}",
            rule="image-classification trains every weight of a small network",
            hint='set [model] base = "mlp:784-64" and [model.adapter] kind = "full"',
        )
    network = Network(base.architecture, len(model.labels))
    network.draw(seed)
    return network
