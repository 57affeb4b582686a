"""The bare twin: the same training and evaluation in as many processes, with nothing around it.

Example (the benchmark types this)::

    python -m fedrelease.simulations.bench.bare script.json      # prints one JSON document

It has no messages, no Flower, no ledger, no screening, no spool and no store: states go through shared memory, tasks are
numbers on a socket. It loads everything and plans all noise before its clock starts. What it keeps is what a federation cannot
do without: batches, steps, the aggregate, and a look at every hold-out.
"""

import json
import os
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from mmap import mmap
from pathlib import Path

import torch
from torch import Tensor

from fedrelease.client.app import resident_model
from fedrelease.client.directives import frozen, parse_directives
from fedrelease.client.schedule import steps_per_round
from fedrelease.client.training import Job, Seeds, train
from fedrelease.data.sites import SiteData, open_site
from fedrelease.errors import EngineError
from fedrelease.models.classifier import load_state, trainable_state
from fedrelease.models.evaluation import mean_loss
from fedrelease.models.prefix import with_prefix
from fedrelease.models.tasks import Classifier
from fedrelease.privacy import PrivacyPlan, plan_privacy
from fedrelease.simulations.bench.script import Round, Script, script_from
from fedrelease.strategies import make_strategy
from fedrelease.update import State, Update, read_state, state_digest

__all__ = ["main"]

NUMBER = struct.Struct(">I")


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One site's training (with its seed) or evaluation (without one) in one round; ``freeze`` is what the strategy asks for."""

    round: int
    site: str
    key: str | None
    freeze: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Twin:
    """What all processes share, made before they are forked.

    Attributes:
        tasks: of the whole federation; a task is known by its place.
        sent: the state that is trained from or looked at, flat. trained: what each site answered, flat. Both lie in shared
            memory, as do ``losses`` on the hold-outs and the seconds that each task ``took``, both by task.
    """

    script: Script
    model: Classifier
    sites: Mapping[str, SiteData]
    plans: Mapping[str, PrivacyPlan]
    tasks: Sequence[_Task]
    sent: Tensor
    trained: Mapping[str, Tensor]
    losses: Tensor
    took: Tensor


def main() -> None:
    """Load, fork, run, print."""
    torch.set_num_threads(1)
    script = script_from(Path(sys.argv[1]).read_text(encoding="utf-8"))
    state: State = read_state(script.initial)
    twin = _twin(script, state)
    workers = [_fork(twin) for _ in range(script.workers)]
    first = time.monotonic()
    state, steps = _federation(twin, workers, state)
    looks = [place for place, task in enumerate(twin.tasks) if task.key is None]
    document = {
        "first": first,
        "last": time.monotonic(),
        "steps": steps,
        "busy": float(twin.took.sum()),
        "losses": [float(twin.losses[place]) for place in looks],
        "state": state_digest(state),
    }
    print(json.dumps(document))


def _twin(script: Script, state: State) -> _Twin:
    model = resident_model(str(script.base), script.experiment.model)
    sites = {site: _site(script, model, site) for site in script.sites}
    size = sum(tensor.numel() for tensor in state.values())
    tasks = [task for one in script.rounds for task in _tasks(script, one)]
    return _Twin(
        script=script,
        model=model,
        sites=sites,
        plans={site: _plan(script, data) for site, data in sites.items()},
        tasks=tasks,
        sent=_shared(size, torch.float32),
        trained={site: _shared(size, torch.float32) for site in script.sites},
        losses=_shared(len(tasks), torch.float64),
        took=_shared(len(tasks), torch.float64),
    )


def _shared(count: int, dtype: torch.dtype) -> Tensor:
    """Zeros in memory that forked processes share."""
    return torch.frombuffer(mmap(-1, count * dtype.itemsize), dtype=dtype)


def _site(script: Script, model: Classifier, name: str) -> SiteData:
    """The rows as the site's own ClientApp opens them."""
    data = open_site(script.data / name)
    if not script.experiment.training.keep_prefix:
        return data
    key = script.base_digest[:16]
    return replace(
        data, train=with_prefix(model, data.train, key=key), holdout=with_prefix(model, data.holdout, key=key)
    )


def _plan(script: Script, data: SiteData) -> PrivacyPlan:
    experiment, rows = script.experiment, len(data.train)
    plan = plan_privacy(
        experiment.privacy,
        rows=rows,
        batch_size=experiment.training.batch_size,
        steps_per_round=steps_per_round(rows, experiment.training, private=True),
        rounds=experiment.rounds,
    )
    if plan is None:
        raise EngineError("the twin repeats private federations only", value=experiment.privacy.unit)
    return plan


def _tasks(script: Script, one: Round) -> list[_Task]:
    """Training in order of site, then every site's look: the order in which the engine is asked."""
    strategy = make_strategy(script.experiment.phases[one.phase].strategy)
    freeze = parse_directives(strategy.directives(one.number)).freeze
    looks = [] if script.experiment.privacy.metrics == "withheld" else list(script.sites)
    return [
        *(_Task(round=one.number, site=site, key=one.keys[site], freeze=freeze) for site in sorted(one.keys)),
        *(_Task(round=one.number, site=site, key=None) for site in sorted(looks)),
    ]


def _fork(twin: _Twin) -> socket.socket:
    """Start a worker and return the socket that it listens to."""
    ours, theirs = socket.socketpair()
    if os.fork():
        theirs.close()
        return ours
    try:
        ours.close()
        while number := theirs.recv(NUMBER.size):
            _work(twin, *NUMBER.unpack(number))
            theirs.sendall(number)
    finally:
        os._exit(0)


def _work(twin: _Twin, place: int) -> None:
    begun = time.monotonic()
    task = twin.tasks[place]
    data = twin.sites[task.site]
    load_state(twin.model, _unflat(twin.sent, trainable_state(twin.model)))
    if task.key is None:
        twin.losses[place] = mean_loss(twin.model, data.holdout)
    else:
        with frozen(twin.model, task.freeze):
            train(twin.model, _job(twin, task, task.key))
        _flat(trainable_state(twin.model), into=twin.trained[task.site])
    twin.took[place] = time.monotonic() - begun


def _job(twin: _Twin, task: _Task, key: str) -> Job:
    plan, experiment = twin.plans[task.site], twin.script.experiment
    return Job(
        rows=twin.sites[task.site].train,
        training=experiment.training,
        plan=plan,
        start=(task.round - 1) * plan.steps_per_round,
        steps=plan.steps_per_round,
        total=experiment.rounds * plan.steps_per_round,
        seeds=Seeds(key=key, noise="seeded"),
    )


def _federation(twin: _Twin, workers: Sequence[socket.socket], state: State) -> tuple[State, Mapping[str, float]]:
    """The last state, and the seconds of each step."""
    memory: State = {}
    steps = {"train": 0.0, "evaluate": 0.0}
    for one in twin.script.rounds:
        places = [place for place, task in enumerate(twin.tasks) if task.round == one.number]
        begun = time.monotonic()
        _flat(state, into=twin.sent)
        _do([place for place in places if twin.tasks[place].key is not None], workers)
        trained = time.monotonic()
        strategy = make_strategy(twin.script.experiment.phases[one.phase].strategy)
        state, memory = strategy.aggregate(state, [_update(twin, site, state) for site in sorted(one.keys)], memory)
        _flat(state, into=twin.sent)
        _do([place for place in places if twin.tasks[place].key is None], workers)
        steps["train"] += trained - begun
        steps["evaluate"] += time.monotonic() - trained
    return state, steps


def _do(places: Sequence[int], workers: Sequence[socket.socket]) -> None:
    """Hand tasks to idle workers in their order, and wait until all are done."""
    queue, idle, busy = deque(places), deque(workers), set[socket.socket]()
    while queue or busy:
        while queue and idle:
            worker = idle.popleft()
            worker.sendall(NUMBER.pack(queue.popleft()))
            busy.add(worker)
        for worker in select.select(list(busy), [], [])[0]:
            if not worker.recv(NUMBER.size):
                raise EngineError("a worker of the bare twin has died")
            busy.remove(worker)
            idle.append(worker)


def _update(twin: _Twin, site: str, parent: State) -> Update:
    trained = _unflat(twin.trained[site], parent)
    delta = {name: trained[name] - tensor for name, tensor in parent.items()}
    return Update(site=site, tensors=delta, examples=None, metrics={}, receipt=None, digest="", size_bytes=0)


def _flat(state: State, *, into: Tensor) -> None:
    torch.cat([state[name].flatten() for name in sorted(state)], out=into)


def _unflat(flat: Tensor, like: State) -> dict[str, Tensor]:
    names = sorted(like)
    pieces = torch.split(flat, [like[name].numel() for name in names])
    return {name: piece.reshape(like[name].shape) for name, piece in zip(names, pieces, strict=True)}


if __name__ == "__main__":
    main()
