"""The node configurations of a simulation's sites, made when they are asked for: a million of them take no room.

Example::

    nodes = Nodes(prepared.sites, node_of, rows_of)
    nodes[2]                                    # what node_of says of the first site
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

from fedrelease.server.flower import FIRST_NODE

__all__ = ["Node", "Nodes"]

Node: TypeAlias = Mapping[str, str]
"""A site's node configuration."""


class Nodes(Mapping[int, Node]):
    """Each site's configuration by node id, made when it is asked for: sites may be very many."""

    def __init__(self, sites: Sequence[str], node_of: Callable[[str], Node], rows_of: Callable[[str], int]) -> None:
        """``sites`` in the order of their node ids; ``rows_of``: how many training rows a site has."""
        self._sites, self._node_of, self.rows_of = sites, node_of, rows_of

    def __getitem__(self, node: int) -> Node:
        """The configuration of a node.

        Raises:
            KeyError: there is no such node.
        """
        if not FIRST_NODE <= node < FIRST_NODE + len(self._sites):
            raise KeyError(node)
        return self._node_of(self._sites[node - FIRST_NODE])

    def __iter__(self) -> Iterator[int]:
        """All ids."""
        return iter(range(FIRST_NODE, FIRST_NODE + len(self._sites)))

    def __len__(self) -> int:
        """How many nodes there are."""
        return len(self._sites)
