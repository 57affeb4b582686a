"""The one adapter between a site and Flower: a ClientApp with train, evaluate and describe.

Example (a site's node configuration)::

    site="amazon" data="/data/amazon" home="/var/lib/fedrelease/amazon" base="/models/minilm"

``noise`` is ``secure`` unless the node's own configuration says ``seeded``, which only the one-machine engine does: no message
can lower it.
"""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedrelease.client.site import Site, evaluate_site, train_site
from fedrelease.data.sites import open_site
from fedrelease.errors import ModelError
from fedrelease.experiment import Model
from fedrelease.messages import Answer, Request, answer_text, parse_request
from fedrelease.models.bases import Base, open_base
from fedrelease.models.classifier import TextClassifier, build_classifier
from fedrelease.models.prefix import with_prefix

__all__ = ["app", "resident_base", "resident_model"]

app = ClientApp()


@lru_cache(maxsize=1)
def resident_base(folder: str) -> Base:
    """The base in ``folder``, its digests taken once in a process."""
    return open_base(folder, cache=Path(folder))


@lru_cache(maxsize=1)
def resident_model(folder: str, model: Model) -> TextClassifier:
    """The model of an experiment, built once in a process; states are swapped in and out of it."""
    return build_classifier(resident_base(folder), model, seed=0)


@app.train()
def _train(message: Message, context: Context) -> Message:
    """Train from the arrays in ``message``; the reply carries the trained arrays and the answer's facts."""
    request, model = _prepare(message, context)
    site = _site(context, request, model)
    answer, trained = train_site(site, request, _arrays(message).to_torch_state_dict(), model)
    return _reply(message, answer, ArrayRecord(trained))


@app.evaluate()
def _evaluate(message: Message, context: Context) -> Message:
    """Evaluate the arrays in ``message`` on the site's hold-out."""
    request, model = _prepare(message, context)
    site = _site(context, request, model)
    answer = evaluate_site(site, request, _arrays(message).to_torch_state_dict(), model)
    return _reply(message, answer, None)


@app.query()
def _describe(message: Message, context: Context) -> Message:
    """Tell the site's name: the only thing that the server needs before the first round."""
    facts = ConfigRecord({"site": str(context.node_config["site"])})
    return Message(RecordDict({"config": facts}), reply_to=message)


def _site(context: Context, request: Request, model: TextClassifier) -> Site:
    settings = context.node_config
    noise = "seeded" if settings.get("noise") == "seeded" else "secure"
    data = open_site(Path(str(settings["data"])))
    if request.experiment.training.keep_prefix:
        data = replace(
            data,
            train=with_prefix(model, data.train, key=request.base[:16]),
            holdout=with_prefix(model, data.holdout, key=request.base[:16]),
        )
    return Site(data=data, home=Path(str(settings["home"])), noise=noise)


def _prepare(message: Message, context: Context) -> tuple[Request, TextClassifier]:
    config = message.content.config_records["config"]
    request = parse_request(str(config["request"]))
    folder = str(context.node_config["base"])
    own = resident_base(folder).digest
    if own != request.base:
        raise ModelError(
            "this site's base is not the server's",
            value=own,
            rule=f"the digest of the base's files is {request.base}",
            hint=f"put the server's base into {folder}",
        )
    return request, resident_model(folder, request.experiment.model)


def _arrays(message: Message) -> ArrayRecord:
    return message.content.array_records["arrays"]


def _reply(message: Message, answer: Answer, arrays: ArrayRecord | None) -> Message:
    metrics: dict[str, int | float | list[int] | list[float]] = {**answer.metrics}
    metrics["num-examples"] = float(answer.examples or 1)  # what plain Flower strategies weight by
    records: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {
        "metrics": MetricRecord(metrics),
        "config": ConfigRecord({"answer": answer_text(answer)}),
    }
    if arrays is not None:
        records["arrays"] = arrays
    return Message(RecordDict(records), reply_to=message)
