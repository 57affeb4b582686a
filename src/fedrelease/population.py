"""The names of many numbered sites, made when asked for: a million of them take no room.

Example::

    names = Population(1_000_000)
    names[12]                                    # 'site-000012'
    names.draw(3, key="7\\x1f0.1.1")              # three of them, always the same for the same key
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import overload

__all__ = ["Population", "site_name"]

PREFIX = "site-"


def site_name(number: int, sites: int) -> str:
    """The name of site ``number`` of ``sites``: digits enough for all, so that names sort as numbers do."""
    return f"{PREFIX}{number:0{max(2, len(str(sites - 1)))}d}"


class Population(Sequence[str]):
    """Names in order, as a sequence that holds none of them. Membership, length and a draw cost the same at any size."""

    def __init__(self, sites: int) -> None:
        """There are ``sites`` of them, at least one."""
        self._sites = sites

    def __len__(self) -> int:
        """How many there are."""
        return self._sites

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[str, ...]: ...
    def __getitem__(self, place: int | slice) -> str | tuple[str, ...]:
        """One name, or some."""
        found = range(self._sites)[place]
        return site_name(found, self._sites) if isinstance(found, int) else tuple(self[one] for one in found)

    def __iter__(self) -> Iterator[str]:
        """All names, in order."""
        return (site_name(number, self._sites) for number in range(self._sites))

    def __contains__(self, name: object) -> bool:
        """Whether a site has that name."""
        return self._number(name) is not None

    def index(self, value: object, start: int = 0, stop: int | None = None) -> int:
        """The number of a site.

        Raises:
            ValueError: no site of that name, or not between ``start`` and ``stop``.
        """
        number = self._number(value)
        if number is None or not start <= number < (self._sites if stop is None else stop):
            raise ValueError(f"{value!r} is no site's name")
        return number

    def _number(self, name: object) -> int | None:
        digits = name.removeprefix(PREFIX) if isinstance(name, str) else ""
        number = int(digits) if digits.isascii() and digits.isdecimal() else self._sites
        return number if number < self._sites and name == site_name(number, self._sites) else None

    def draw(self, count: int, *, key: str) -> tuple[str, ...]:
        """``count`` different names, sorted, each set of names as likely as any other over keys; costs only what it draws.

        Numbers are sha256(key, counter), the first 128 bits, modulo the size; one that came before is drawn again.

        Raises:
            ValueError: there are fewer sites.
        """
        if not 0 <= count <= self._sites:
            raise ValueError(f"{count} of {self._sites} sites cannot be drawn")
        chosen: set[int] = set()
        counter = 0
        while len(chosen) < count:
            digest = hashlib.sha256(f"{key}\x1f{counter}".encode()).digest()
            chosen.add(int.from_bytes(digest[:16], "big") % self._sites)
            counter += 1
        return tuple(site_name(number, self._sites) for number in sorted(chosen))
