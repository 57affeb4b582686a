"""Private gradients of every weight in one ordinary backward pass: it keeps what gradients are made of, and forms none.

Example::

    with book_keeping(model) as books:
        loss.backward()                                   # the sum of the examples' losses
        lengths = gradient_lengths(books)                 # float32 [examples]: of each example's whole gradient
        form_sums(books, scales)                          # parameter.summed_grad: the sum of the gradients times [examples]

Ghost clipping, which also forms no gradient of an example, goes back twice: for the lengths, and again through the scaled losses.
Here each layer's output gradients are kept from the first time and scaled, which gives the same sum. Source: Bu et al. (2023),
https://arxiv.org/abs/2210.00038, section 3.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from fedrelease.errors import ModelError
from fedrelease.models.booked_kinds import KINDS
from fedrelease.models.booked_layers import Pair, gram
from fedrelease.models.per_example import SMALL, forget_gradients

__all__ = ["Books", "book_keeping", "form_sums", "gradient_lengths", "keeps_books", "squared_lengths"]


@dataclass(kw_only=True)
class Books:
    """One backward pass: how many examples went through, and layer by layer what came of it. All of it is private."""

    model: nn.Module
    examples: int = 0
    pairs: dict[nn.Module, list[Pair]] = field(default_factory=dict)


def keeps_books(model: nn.Module) -> bool:
    """Whether something is trained beside factors, cores, vectors and heads, whose gradients are small enough to be formed."""
    small = {id(p) for m in model.modules() if isinstance(m, SMALL) for p in m.parameters()}
    return any(parameter.requires_grad and id(parameter) not in small for parameter in model.parameters())


@contextmanager
def book_keeping(model: nn.Module) -> Iterator[Books]:
    """Within it, backward leaves no ``grad`` of what is trained, but notes in the books; afterwards nothing is left.

    Raises:
        ModelError: a trained parameter is tied, or in a layer that cannot be booked.
    """
    layers, books = _covered(model), Books(model=model)
    handle = model.register_forward_pre_hook(partial(_open, books))
    try:
        for layer in layers:
            vars(layer)["forward"] = partial(_forward, books, layer)  # found before the class' own
        yield books
    finally:
        handle.remove()
        for layer in layers:
            vars(layer).pop("forward", None)
        books.pairs.clear()
        forget_gradients(model)


def _open(books: Books, _: nn.Module, given: tuple[Tensor, ...]) -> None:
    books.examples = len(given[0])
    books.pairs.clear()


def _forward(books: Books, layer: nn.Module, given: Tensor) -> Tensor:
    kind = KINDS[type(layer)]
    if isinstance(layer, nn.Embedding) and given.dim() == 2 and len(given) == 1:
        given = given.expand(books.examples, -1)  # positions, the same for all; their gradients are not
    if given.dim() < 2 or len(given) != books.examples:
        raise ModelError(
            f"a layer ({type(layer).__name__}) sees no examples",
            value=tuple(given.shape),
            rule="a layer whose weights are trained privately is given [examples, ...]",
            hint=WAY_OUT,
        )
    return kind.forward(layer, partial(_note, books, layer), given)


def _note(books: Books, layer: nn.Module, given: Tensor, back: Tensor) -> None:
    kept = given.flatten(1) if isinstance(layer, nn.Embedding) else _by_token(given.detach())
    books.pairs.setdefault(layer, []).append(Pair(given=kept, back=_by_token(back.detach())))


def _by_token(value: Tensor) -> Tensor:
    """``[examples, tokens, width]``; a vector an example is one token."""
    return value[:, None] if value.dim() == 2 else value.flatten(1, -2)


WAY_OUT = 'set [model.adapter] kind = "lora" or "head", or train without privacy ([privacy] unit = "none")'


def _covered(model: nn.Module) -> list[nn.Module]:
    """The layers to book: all that have trained parameters."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    layers, seen = [], set[int]()
    for layer in model.modules():
        trained = [parameter for parameter in layer.parameters(recurse=False) if parameter.requires_grad]
        for parameter in trained:
            if id(parameter) in seen or not _known(layer):
                _refuse(names[id(parameter)], layer, tied=id(parameter) in seen)
            seen.add(id(parameter))
        layers += [layer] if trained else []
    return layers


def _known(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Embedding) and (layer.max_norm is not None or layer.scale_grad_by_freq):
        return False
    if isinstance(layer, nn.Conv2d) and (layer.groups > 1 or layer.padding_mode != "zeros" or layer.padding == "same"):
        return False
    if isinstance(layer, nn.GroupNorm) and not layer.affine:
        return False
    return type(layer) in KINDS and not (isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) > 1)


def _refuse(name: str, layer: nn.Module, *, tied: bool) -> None:
    raise ModelError(
        "two layers share a trained parameter" if tied else "a trained parameter has no gradient by example",
        value=f"{name} of {type(layer).__name__}",
        rule=f"what is trained privately is in one layer, a plain {', '.join(sorted(kind.__name__ for kind in KINDS))}",
        hint=WAY_OUT,
    )


def squared_lengths(books: Books) -> dict[Tensor, Tensor]:
    """By trained parameter the squared L2 length of each example's gradient, float32 ``[examples]``; may be infinite or NaN.

    Raises:
        ModelError: a parameter was also used outside of its layer, so that the books lack a part of its gradient.
    """
    for name, parameter in books.model.named_parameters():
        if parameter.requires_grad and parameter.grad is not None:
            raise ModelError("a trained parameter is used outside of its layer", value=name, hint=WAY_OUT)
    found: dict[Tensor, Tensor] = {}
    grams = _LastGram()
    for layer, pairs in books.pairs.items():
        found.update(KINDS[type(layer)].squares(layer, _whole(pairs), grams))
    return {parameter: squares.clamp(min=0) for parameter, squares in found.items() if parameter.requires_grad}


def gradient_lengths(books: Books) -> Tensor:
    """The L2 length of each example's gradient over all that is trained, float32 ``[examples]``; may be infinite or NaN."""
    return torch.stack(list(squared_lengths(books).values())).sum(0).sqrt()


class _LastGram:
    """Remembers the last Gram matrices: query, key and value are given the same tokens."""

    def __init__(self) -> None:
        self._rows = self._gram = torch.empty(0)

    def __call__(self, rows: Tensor) -> Tensor:
        if _place(rows) != _place(self._rows):
            self._rows, self._gram = rows, gram(rows)  # held, so that no other tensor can take the place
        return self._gram


def _place(rows: Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return rows.data_ptr(), tuple(rows.shape), rows.stride()


def _whole(pairs: list[Pair]) -> Pair:
    """A layer that was used many times, as one that was used once on more tokens: the gradient is the same sum."""
    if len(pairs) == 1:
        return pairs[0]
    return Pair(given=torch.cat([p.given for p in pairs], 1), back=torch.cat([p.back for p in pairs], 1))


def form_sums(books: Books, scales: Tensor) -> None:
    """Add to each parameter's ``summed_grad`` the sum of its examples' gradients, times ``scales`` ``[examples]``.

    The books are empty then, so that memory goes down while sums are formed.
    An example whose scale is 0 adds nothing, whatever its gradient is.
    """
    left_out = (scales == 0)[:, None, None]
    some = bool(left_out.any())

    def scaled(value: Tensor) -> Tensor:
        found = value * scales[:, None, None]
        return found.masked_fill_(left_out, 0.0) if some else found

    while books.pairs:
        layer, pairs = books.pairs.popitem()
        whole = _whole(pairs)
        if some and whole.given.is_floating_point():
            whole = Pair(given=whole.given.masked_fill(left_out, 0.0), back=whole.back)
        for parameter, sums in KINDS[type(layer)].sums(layer, whole, scaled).items():
            if parameter.requires_grad:
                _add(parameter, sums)


def _add(parameter: Tensor, sums: Tensor) -> None:
    before: Tensor | None = getattr(parameter, "summed_grad", None)
    parameter.summed_grad = sums if before is None else before.add_(sums)  # type: ignore[attr-defined]  # Opacus' name
