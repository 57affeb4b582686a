"""From what a site sent to what it trained: the codec's way back, before anything is screened.

Example::

    trained = decoded(request, parent, "amazon", arrays)        # UpdateRefused where it is not what the codec makes
"""

from collections.abc import Mapping

from torch import Tensor

from fedrelease.codecs import decode, shaped
from fedrelease.factors import received_by
from fedrelease.messages import Request
from fedrelease.update import State, digest_and_size

__all__ = ["decoded", "sent_bytes"]


def decoded(request: Request, parent: State, site: str, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the site trained, by name and in its own rank: what it received plus what it sent.

    Raises:
        UpdateRefused: the arrays are not what the codec makes of an update of this size.
    """
    transport = request.experiment.transport
    if not transport.is_coded:
        return dict(arrays)
    began = received_by(parent, request.adapter.rank_of(site))
    vector = decode(arrays, sum(tensor.numel() for tensor in began.values()), transport)
    return {name: began[name] + change for name, change in shaped(vector, began).items()}


def sent_bytes(request: Request, arrays: Mapping[str, Tensor]) -> int | None:
    """Of what was sent in a codec's form and could be read, as one file; None where updates travel as they are."""
    return digest_and_size(arrays)[1] if request.experiment.transport.is_coded else None
