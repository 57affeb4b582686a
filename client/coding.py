"""What a site sends of what it trained: the difference to what came, in the experiment's codec.

Example::

    sent = coded(site, request, state, trained)          # {"codes": int8, "scales": float32}, and companions beside them

With error feedback a site keeps what its codec left out, and adds it to the difference of the next round that asks it. A tensor
that did not move in a round (a frozen factor, a part that is private to the site) is sent as one that did not move: what is still
to be sent of it waits. What is kept lies on disk as :mod:`fedrelease.client.left_behind` says: a round that is asked again sends
the same. A site that has lost it begins with nothing left to send.

Guarantees: with privacy, coding costs nothing. What was trained came out of clipping and noise, and is charged for before the
first step. What is sent, and what is kept for later, is a function of this difference, of what was kept before, and of what the
server sent; so, round by round, of nothing but outputs that were noised and charged for, those of lost answers among them. Such
post-processing is covered by the sum over all rounds, which is what the ledger holds. Random rounding needs no secret numbers.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedrelease.client.left_behind import Shelf, shelf_of
from fedrelease.client.sampling import seeded_generator
from fedrelease.client.site import Site
from fedrelease.codecs import decode, encode, flat, shaped
from fedrelease.errors import DataError
from fedrelease.experiment_document import experiment_digest
from fedrelease.factors import received_by, truncated
from fedrelease.growth import grown_with_zeros
from fedrelease.messages import Request
from fedrelease.update import State, apart, read_state

__all__ = ["coded"]

FOLDER = "left-out"


def coded(site: Site, request: Request, came: State, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What travels in the place of ``trained``; with ``float32`` that is ``trained`` itself. Companions go with it as they are.

    Raises:
        UpdateRefused: a number is not finite, or the codec cannot hold it; or what was kept cannot be read.
        DataError: what was kept does not fit the state.
    """
    transport = request.experiment.transport
    if not transport.is_coded:
        return dict(trained)
    state, beside = apart(trained)
    rank = request.adapter.rank_of(site.data.name)
    began = received_by(came, rank)
    delta = {name: tensor - began[name] for name, tensor in state.items()}
    if not transport.error_feedback:
        return {**encode(flat(delta), transport, _numbers(site, request)), **beside}
    shelf = shelf_of(site.home / FOLDER, transport.codec, request)
    before = _kept(shelf, delta, rank)
    moved = {name for name, change in delta.items() if bool(change.any())}
    due = {name: change + before[name] if name in moved else change for name, change in delta.items()}
    payload = encode(flat(due), transport)
    arrives = shaped(decode(payload, sum(tensor.numel() for tensor in due.values()), transport), due)
    shelf.keep({name: due[name] - arrives[name] if name in moved else before[name] for name in due})
    return {**payload, **beside}


def _numbers(site: Site, request: Request) -> torch.Generator:
    """What random rounding draws from: the same where the same is asked again."""
    return seeded_generator("rounding", experiment_digest(request.experiment), request.version, site.data.name)


def _kept(shelf: Shelf, like: State, rank: int) -> dict[str, Tensor]:
    """What earlier rounds left out, in the shapes of ``like``: with zeros for what has grown, without ranks that went."""
    path = shelf.before()
    found = truncated(read_state(path), rank) if path else {}
    kept = {**{name: torch.zeros_like(tensor) for name, tensor in like.items()}, **grown_with_zeros(found, like=like)}
    if {name: tensor.shape for name, tensor in kept.items()} != {name: tensor.shape for name, tensor in like.items()}:
        hint = "put back the file that was there; without it the site begins with nothing left out"
        raise DataError("what this site's codec left out does not fit the state", value=str(path), hint=hint)
    return kept
