"""Training every weight of a text classifier: all that its logits depend on, and nothing else.

Example::

    train_every_weight(classifier)               # parameter.requires_grad of all but, say, the base's pooler
"""

import torch
from torch import Tensor, nn

__all__ = ["train_every_weight", "train_used_weights"]


def train_every_weight(classifier: nn.Module, *, targets: bool = False) -> None:
    """Let every parameter be trained that the logits of a text depend on.

    What they do not depend on (the pooler of a BERT whose tokens are averaged) has no gradient: it would be sent around, and get
    noise, for nothing.

    Args:
        targets: whether it is given some, as a model that tells hidden tokens is.
    """
    ids = torch.zeros(1, 2, dtype=torch.int64)
    train_used_weights(classifier, ids, torch.ones_like(ids), *((None, ids) if targets else ()))


def train_used_weights(classifier: nn.Module, *inputs: Tensor | None) -> None:
    """The same, of a model that takes these inputs."""
    for parameter in classifier.parameters():
        parameter.requires_grad_(True)
    used = _leaves(classifier(*inputs))
    for parameter in classifier.parameters():
        parameter.requires_grad_(id(parameter) in used)


def _leaves(found: Tensor) -> set[int]:
    """Ids of the parameters that a tensor was computed from: the ends of its graph. No gradient is computed."""
    leaves, seen, open_nodes = set[int](), set[object](), [found.grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaves |= {id(node.variable)} if hasattr(node, "variable") else set()
        open_nodes += [before for before, _ in node.next_functions]
    return leaves
