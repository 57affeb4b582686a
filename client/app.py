"""The one adapter between a site and Flower: a ClientApp with train, evaluate and describe.

Example (a site's node configuration)::

    site="amazon" data="/data/amazon" home="/var/lib/fedrelease/amazon" base="/models/minilm"

``noise`` is ``secure`` unless the node's own configuration says ``seeded``, which only a simulation does: no message can lower
it. A process that holds several sites asks them at once, through the same functions: :func:`train_nodes`, :func:`evaluate_nodes`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeAlias

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedrelease.augment import Augment
from fedrelease.client.augmentation import Fill, fill_of
from fedrelease.client.coding import coded
from fedrelease.client.group import Trained, train_sites, tried
from fedrelease.client.site import Site, evaluate_site
from fedrelease.data.sites import open_site
from fedrelease.data.tokens import load_tokenizer
from fedrelease.downlink import widened
from fedrelease.errors import ModelError
from fedrelease.experiment import Model
from fedrelease.messages import Answer, Request, answer_text, parse_request
from fedrelease.models.bases import Base, open_base
from fedrelease.models.prefix import with_prefix
from fedrelease.models.tasks import Classifier, build_model
from fedrelease.update import State, apart

__all__ = [
    "Node",
    "app",
    "evaluate_nodes",
    "facts_of",
    "resident_base",
    "resident_fill",
    "resident_model",
    "train_nodes",
]

app = ClientApp()

Node: TypeAlias = Mapping[str, object]
"""A site's node configuration."""


@lru_cache(maxsize=1)
def resident_base(folder: str) -> Base:
    """The base in ``folder``, its digests taken once in a process."""
    return open_base(folder, cache=Path(folder))


@lru_cache(maxsize=1)
def resident_model(folder: str, model: Model) -> Classifier:
    """The model of an experiment, built once in a process; states are swapped in and out of it."""
    return build_model(resident_base(folder), model, seed=0)


@lru_cache(maxsize=1)
def resident_fill(folder: str) -> Fill:
    """What takes a token's place in training, read once in a process."""
    return fill_of(load_tokenizer(Path(folder)))


_request = lru_cache(maxsize=2)(parse_request)
"""A round asks the same of many sites."""


@app.train()
def _train(message: Message, context: Context) -> Message:
    """Train from the arrays in ``message``; the reply carries the trained arrays and the answer's facts."""
    (outcome,) = train_nodes(message.content, [context.node_config])
    if isinstance(outcome, Exception):
        raise outcome
    answer, trained = outcome
    return Message(RecordDict({**facts_of(answer), **_arrays(trained)}), reply_to=message)


@app.evaluate()
def _evaluate(message: Message, context: Context) -> Message:
    """Evaluate the arrays in ``message`` on the site's hold-out."""
    (outcome,) = evaluate_nodes(message.content, [context.node_config])
    if isinstance(outcome, Exception):
        raise outcome
    return Message(RecordDict({**facts_of(outcome)}), reply_to=message)


@app.query()
def _describe(message: Message, context: Context) -> Message:
    """Tell the site's name: the only thing that the server needs before the first round."""
    facts = ConfigRecord({"site": str(context.node_config["site"])})
    return Message(RecordDict({"config": facts}), reply_to=message)


def train_nodes(content: RecordDict, nodes: Sequence[Node]) -> list[Trained | Exception]:
    """Train several sites of one base from the arrays in ``content``: what each answers, as it travels, or why it cannot.

    Raises:
        FedreleaseError: the question itself cannot be answered by anybody.
    """
    request, model = _prepare(content, nodes[0])
    sites = [tried(partial(_site, node, request, model)) for node in nodes]
    there = [site for site in sites if not isinstance(site, Exception)]
    tensors = {kind: record.to_torch_state_dict() for kind, record in content.array_records.items()}
    came = widened(tensors["arrays"], request.experiment.transport)
    found = iter(train_sites(there, request, came, model, tensors.get("companions")))
    outcomes = [(site, site if isinstance(site, Exception) else next(found)) for site in sites]
    return [_sent(site, outcome, request, came) for site, outcome in outcomes]


def evaluate_nodes(content: RecordDict, nodes: Sequence[Node]) -> list[Answer | Exception]:
    """Evaluate the arrays in ``content`` on the hold-out of each site.

    Raises:
        FedreleaseError: the question itself cannot be answered by anybody.
    """
    request, model = _prepare(content, nodes[0])
    state = widened(content.array_records["arrays"].to_torch_state_dict(), request.experiment.transport)

    def look(node: Node) -> Answer:
        return evaluate_site(_site(node, request, model), request, state, model)

    return [tried(partial(look, node)) for node in nodes]


def _sent(site: Site | Exception, outcome: Trained | Exception, request: Request, came: State) -> Trained | Exception:
    """The outcome with its tensors as they travel."""
    if isinstance(site, Exception) or isinstance(outcome, Exception):
        return outcome
    answer, trained = outcome
    return tried(lambda: (answer, coded(site, request, came, trained)))


def _arrays(tensors: State) -> dict[str, ArrayRecord]:
    """The record of the trained tensors, or of their coded form, and that of companions where there are any."""
    state, companions = apart(tensors)
    return {kind: ArrayRecord(part) for kind, part in (("arrays", state), ("companions", companions)) if part}


def _site(node: Node, request: Request, model: Classifier) -> Site:
    noise = "seeded" if node.get("noise") == "seeded" else "secure"
    data = open_site(Path(str(node["data"])))
    training, key = request.experiment.training, request.base[:16]
    if training.keep_prefix:
        data = replace(data, holdout=with_prefix(model, data.holdout, key=key))
    if training.keep_prefix and training.augment == Augment():  # a row that changes has another prefix in each step
        data = replace(data, train=with_prefix(model, data.train, key=key))
    fill = resident_fill(str(node["base"])) if training.augment.tokens else None
    return Site(data=data, home=Path(str(node["home"])), noise=noise, fill=fill)


def _prepare(content: RecordDict, node: Node) -> tuple[Request, Classifier]:
    request = _request(str(content.config_records["config"]["request"]))
    folder = str(node["base"])
    own = resident_base(folder).digest
    if own != request.base:
        raise ModelError(
            "this site's base is not the server's",
            value=own,
            rule=f"the digest of the base's files is {request.base}",
            hint=f"put the server's base into {folder}",
        )
    return request, resident_model(folder, request.experiment.model_at(request.round))


def facts_of(answer: Answer) -> dict[str, MetricRecord | ConfigRecord]:
    """The records that tell an answer, arrays aside."""
    metrics: dict[str, int | float | list[int] | list[float]] = {**answer.metrics}
    metrics["num-examples"] = float(answer.examples or 1)  # what plain Flower strategies weight by
    return {"metrics": MetricRecord(metrics), "config": ConfigRecord({"answer": answer_text(answer)})}
