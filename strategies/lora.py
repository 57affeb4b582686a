"""LoRA layers as products: the mean of the sites' ``B_k A_k``, how far a release is from it, and the best factors for it.

Example::

    mean = mean_product("encoder.0.query", parent, updates, weights)
    first, second = best_factors(mean, rank=8)           # A [8, in] and B [out, 8] with B A as near to the mean as can be
    residuals(parent, state, updates, weights)           # {'encoder.0.query': 0.07}: what averaging factors lost there

A product is never multiplied out. Sites of all ranks share the factor alpha / rank of the experiment, which cancels out here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrelease.factors import FIRST, RESIDUAL, SECOND, layers_of
from fedrelease.update import State, Update

__all__ = ["Product", "best_factors", "folded", "length", "mean_product", "residuals", "site_product", "stacked"]


@dataclass(frozen=True, kw_only=True)
class Product:
    """A matrix ``[out, in]`` as ``left @ right``, float64: ``[out, n]`` and ``[n, in]``."""

    left: Tensor
    right: Tensor

    @property
    def inner(self) -> int:
        """Columns of ``left``: its rank is at most this."""
        return self.left.shape[1]


def site_product(layer: str, parent: State, update: Update) -> Product:
    """``B_k A_k`` of what a site ended with: its deltas on the leading ranks of the parent's factors."""
    first, second = update.tensors[layer + FIRST], update.tensors[layer + SECOND]
    rank = len(first)
    return Product(
        left=parent[layer + SECOND][:, :rank].double() + second, right=parent[layer + FIRST][:rank].double() + first
    )


def stacked(products: Sequence[Product]) -> Product:
    """Their sum, exactly: factors side by side. Source: Wang et al. (2024), https://arxiv.org/abs/2409.05976, section 3."""
    return Product(
        left=torch.cat([one.left for one in products], dim=1), right=torch.cat([one.right for one in products], dim=0)
    )


def folded(product: Product) -> Product:
    """The same matrix with no more inner columns than its smaller side has; only the larger factor's QR is needed."""
    out, into = product.left.shape[0], product.right.shape[1]
    if product.inner <= min(out, into):
        return product
    if into <= out:
        basis, rest = torch.linalg.qr(product.right.T)
        return Product(left=product.left @ rest.T, right=basis.T)
    basis, rest = torch.linalg.qr(product.left)
    return Product(left=basis, right=rest @ product.right)


def mean_product(layer: str, parent: State, updates: Sequence[Update], weights: Sequence[float]) -> Product:
    """The weighted sum of the sites' products, one site at a time in the order given; nothing is cut off.

    Guarantees: memory does not grow with the number of sites. The stack is folded once its columns are twice the matrix' smaller
    side, so that it holds at most ``(2 min(out, in) + rank) (out + in)`` numbers; with fewer sites it is what they sent.
    """
    most = 2 * min(len(parent[layer + SECOND]), parent[layer + FIRST].shape[1])
    waiting: list[Product] = []
    for update, weight in zip(updates, weights, strict=True):
        one = site_product(layer, parent, update)
        waiting.append(Product(left=weight * one.left, right=one.right))
        if sum(product.inner for product in waiting) > most:
            waiting = [folded(stacked(waiting))]
    return stacked(waiting)


def length(product: Product) -> float:
    """The Frobenius norm: that of the small product of both factors' triangles, ``|Q R (P S)^T| = |R S^T|``."""
    left, right = torch.linalg.qr(product.left, mode="r")[1], torch.linalg.qr(product.right.T, mode="r")[1]
    return float(torch.linalg.matrix_norm(left @ right.T))


def best_factors(product: Product, rank: int) -> tuple[Tensor, Tensor]:
    """A ``[rank, in]`` and B ``[out, rank]``, float64, whose ``B A`` is the nearest matrix of that rank.

    The singular values lie in B, as ``A = V^T`` and ``B = U S``: A's rows have length 1, about what LoRA draws them to be, and a
    direction that carries nothing yet has a zero column in B beside a row in A, from which training can start; a square root of
    both would leave it zero on both sides for ever. Largest singular value first, so that a site of lower rank which takes the
    leading ranks takes the best that it can. Signs: the largest entry of each row of A is positive.

    Source: Eckart and Young (1936), through QR of both factors and the SVD of the small product of their triangles.
    """
    left, low = torch.linalg.qr(product.left)
    right, high = torch.linalg.qr(product.right.T)
    u, values, v = torch.linalg.svd(low @ high.T, full_matrices=False)
    first, second = v[:rank] @ right.T, left @ (u[:, :rank] * values[:rank])
    signs = torch.where(first.gather(1, first.abs().argmax(1, keepdim=True)) < 0, -1.0, 1.0)
    return _filled(first * signs, rank, 0), _filled(second * signs.T, rank, 1)


def _filled(factor: Tensor, rank: int, dim: int) -> Tensor:
    """With zeros up to ``rank``, where that is more than the matrix has rows or columns."""
    missing = list(factor.shape)
    missing[dim] = rank - missing[dim]
    return torch.cat([factor, factor.new_zeros(missing)], dim=dim)


def residuals(parent: State, state: State, updates: Sequence[Update], weights: Sequence[float]) -> dict[str, float]:
    """By layer, how far a release's product is from the mean of the sites': ``|mean(B_k A_k) - B A| / |mean(B_k A_k)|``.

    Where the layer has a residual, what it moved by counts as part of the release's product. Frobenius norms; 0 is exact, and 1
    means that as much is wrong as there is. Where the mean is zero, 1 stands for any product that is not. For rules that do not
    aim at the mean (server optimizers, robust ones) it tells how far from it they went.

    Args:
        parent: the state that the sites trained from.
        state: the aggregated one.
        weights: the sites' shares of the mean.
    """
    return {layer: _residual(layer, parent, state, updates, weights) for layer in layers_of(state.keys())}


def _residual(layer: str, parent: State, state: State, updates: Sequence[Update], weights: Sequence[float]) -> float:
    mean = mean_product(layer, parent, updates, weights)
    own = _released(layer, parent, state)
    missed = length(stacked([mean, Product(left=-own.left, right=own.right)]))
    whole = length(mean) or length(own)
    return missed / whole if whole else 0.0


def _released(layer: str, parent: State, state: State) -> Product:
    """``B A`` of a release, plus the change of its residual: both are added to what every site had before."""
    own = Product(left=state[layer + SECOND].double(), right=state[layer + FIRST].double())
    if layer + RESIDUAL not in state:
        return own
    change = state[layer + RESIDUAL].double() - parent[layer + RESIDUAL].double()
    return stacked([own, Product(left=change, right=torch.eye(change.shape[1], dtype=torch.float64))])
