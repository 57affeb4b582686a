"""One engine for several runs, one after the other: its workers start and load once.

Example::

    with Lender(home=Path("comparison/engine"), workers=None) as lender:
        for experiment, store in runs:
            simulate(experiment, store=store, lender=lender, ...)

Workers know nothing of a run: each task tells them the experiment, and where the site's data and ledger lie. So a run on a lent
engine releases the same bits as a run on its own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import final

from fedrelease.errors import EngineError
from fedrelease.experiment import Experiment
from fedrelease.models.bases import Base
from fedrelease.simulations.engine import Engine, default_workers

__all__ = ["Lender", "own_engine"]


def own_engine(experiment: Experiment, base: Base, home: Path, workers: int | None) -> Engine:
    """An engine for one run; its workers begin to load."""
    return Engine(base=base.folder, experiment=experiment, workers=_count(experiment, workers), home=home)


def _count(experiment: Experiment, workers: int | None) -> int:
    partition = experiment.data.partition
    return workers or default_workers(None if partition.by == "column" else partition.sites)


@final
class Lender:
    """Opens a base when it is first asked for, and an engine when a run needs another one than there is.

    An engine that failed, or that a run left with work in it, is not lent again: an answer that comes late must not be taken for
    one of the next run.
    """

    def __init__(self, *, home: Path, workers: int | None) -> None:
        """``home`` is the engine's own folder, with its log; nothing starts yet."""
        self._home, self._workers = home, workers
        self._bases: dict[tuple[str, str], Base] = {}
        self._engine: Engine | None = None
        self._key: tuple[Path, int] | None = None

    def base(self, experiment: Experiment, make: Callable[[], Base]) -> Base:
        """The experiment's base, fetched and opened by ``make`` the first time."""
        key = (experiment.model.base, experiment.data.source)
        if key not in self._bases:
            self._bases[key] = make()
        return self._bases[key]

    @contextmanager
    def lend(self, experiment: Experiment, base: Base) -> Iterator[Engine]:
        """An engine for the time of one run."""
        engine = self._fitting(experiment, base)
        whole = False
        try:
            yield engine
            whole = True
        except Exception as error:
            whole = not isinstance(error, EngineError)
            raise
        finally:
            if not (whole and engine.idle):
                self.close()

    def _fitting(self, experiment: Experiment, base: Base) -> Engine:
        """The engine at hand if it has this base and as many workers, else a new one."""
        key = (base.folder, _count(experiment, self._workers))
        if self._engine is None or self._key != key:
            self.close()
            self._engine, self._key = own_engine(experiment, base, self._home, self._workers), key
        return self._engine

    def close(self) -> None:
        """End the engine, if there is one; the next run starts another."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def __enter__(self) -> "Lender":
        """The lender itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the engine, however the block ended."""
        self.close()
