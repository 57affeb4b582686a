"""Training every weight of a text classifier, or those that were chosen: all that its logits depend on, and nothing else.

Example::

    train_used_weights(classifier, *words(), every=True)     # parameter.requires_grad of all but, say, the base's pooler
"""

import torch
from torch import Tensor, nn

__all__ = ["train_used_weights", "words"]


def words(*, targets: bool = False) -> tuple[Tensor | None, ...]:
    """Ids and mask of a text of two tokens, int64 ``[1, 2]``; with ``targets``, as a model that tells hidden tokens is given."""
    ids = torch.zeros(1, 2, dtype=torch.int64)
    return (ids, torch.ones_like(ids), *((None, None, ids) if targets else ()))


def train_used_weights(classifier: nn.Module, *inputs: Tensor | None, every: bool) -> None:
    """Let parameters be trained that the logits of these inputs depend on: every one, or only those that were to be.

    What they do not depend on (the pooler of a BERT whose tokens are averaged) has no gradient: it would be sent around, and get
    noise, for nothing.
    """
    for parameter in classifier.parameters():
        parameter.requires_grad_(every or parameter.requires_grad)
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
