"""One question to several sites of this process: their answers, or what each of them died of.

Example::

    for site, outcome in zip(sites, train_sites(sites, request, state, model), strict=True):
        if not isinstance(outcome, Exception):
            answer, trained = outcome               # else the others are not concerned

Sites with a small network train together (:mod:`fedrelease.client.together`), all others one after the other.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeAlias, TypeVar

from torch import Tensor

from fedrelease.client.directives import frozen, parse_directives
from fedrelease.client.selftest_sums import check_sums
from fedrelease.client.site import Site, Task, begin_training, charge_facts, train_site
from fedrelease.client.together import alike, train_together
from fedrelease.client.variates import check_companions
from fedrelease.messages import Answer, Request
from fedrelease.models.classifier import load_state
from fedrelease.models.network import Network
from fedrelease.models.tasks import Classifier
from fedrelease.training_rules import is_plain
from fedrelease.update import State

__all__ = ["Trained", "train_sites", "tried"]

Trained: TypeAlias = tuple[Answer, dict[str, Tensor]]
"""What a site tells, and its tensors: trained ones, and companions beside them (:func:`fedrelease.update.apart`)."""
T = TypeVar("T")


def tried(work: Callable[[], T]) -> T | Exception:
    """What ``work`` returns, or what it raises: a site may fail in any way, and the others go on."""
    try:
        return work()
    except Exception as error:
        return error


def train_sites(
    sites: Sequence[Site], request: Request, state: State, model: Classifier, companions: State | None = None
) -> list[Trained | Exception]:
    """Train each site from ``state``; the outcome of each, in order. Each ledger is charged before its site's first step."""
    if not isinstance(model, Network) or _one_by_one(request):
        return [tried(partial(train_site, site, request, state, model, companions)) for site in sites]
    ready = tried(lambda: _fit(model, request, state, companions or {}))
    if ready is not None:
        return [ready for _ in sites]
    shared = charge_facts(request, state)
    begin = partial(begin_training, request=request, model=model, shared=shared, check=partial(check_sums, model))
    tasks = [tried(partial(begin, site)) for site in sites]
    found: dict[int, Trained | Exception] = {
        place: task for place, task in enumerate(tasks) if isinstance(task, Exception)
    }
    found.update(_train(model, tasks))
    return [found[place] for place in range(len(sites))]


def _one_by_one(request: Request) -> bool:
    """Early stopping, other losses or rows, control variates, private parts and Fisher information are each site's own."""
    own, training = {"private", "tell_fisher", "variate"} & request.directives.keys(), request.experiment.training
    return training.patience is not None or not is_plain(training) or bool(own)


def _fit(model: Network, request: Request, state: State, companions: State) -> None:
    """Before any charge: a state or wish that does not fit costs nothing."""
    load_state(model, state)
    check_companions(request, state, companions)
    with frozen(model, parse_directives(request.directives).freeze):
        pass


def _train(model: Network, tasks: Sequence[Task | Exception]) -> Iterator[tuple[int, Trained | Exception]]:
    """Those that may go together, together; should a computation fail, all in it do."""
    groups: dict[tuple[int, int], list[tuple[int, Task]]] = defaultdict(list)
    for place, task in enumerate(tasks):
        if not isinstance(task, Exception):
            groups[alike(task.job)].append((place, task))
    for group in groups.values():
        states = tried(partial(train_together, model, [task.job for _, task in group]))
        for number, (place, task) in enumerate(group):
            yield place, states if isinstance(states, Exception) else (task.answer(task.job.steps), states[number])
