"""What the server asks a site and what the site answers: plain facts in strict JSON beside the arrays.

Example::

    text = request_text(request)          # goes into a Flower ConfigRecord
    request = parse_request(text)         # on the site; unknown or missing keys are refused
"""

import json
import sys
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, fields

from fedrelease.adapter import Adapter
from fedrelease.errors import UpdateRefused
from fedrelease.experiment import Experiment
from fedrelease.experiment_file import from_document, to_document
from fedrelease.item_outcomes import Outcomes
from fedrelease.privacy import Receipt

__all__ = [
    "ACCURACY_PRIVATE",
    "Answer",
    "Request",
    "answer_text",
    "parse_answer",
    "parse_request",
    "request_text",
]


ACCURACY_PRIVATE = "accuracy_private"
"""The metric of a hold-out that a site tells of a release with its own private part in place."""
LARGEST = sys.float_info.max


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a site is asked in one round.

    Attributes:
        experiment: the whole resolved experiment; the site computes its privacy plan from it and checks it against its own rules.
        version: of the release in the making. round: number in the whole plan, from 1; 0 evaluates the base.
        base: digest of the base that the state belongs to.
        directives: of the strategy, for this round.
    """

    experiment: Experiment
    version: str
    round: int
    base: str
    directives: Mapping[str, float | str | bool]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of this round, in the order of the logits."""
        return self.experiment.labels_at(self.round)

    @property
    def adapter(self) -> Adapter:
        """The adapter of this round."""
        return self.experiment.adapter_at(self.round)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a site tells besides its arrays.

    Attributes:
        examples: training (or hold-out) rows behind the answer; ``None`` where that is private.
        metrics: plain numbers, for example ``steps``; of a hold-out ``accuracy_private`` or none.
        confusion: of the hold-out, by rows: true label, then predicted label; ``None`` when withheld or not asked.
        sums: of the hold-out, what the task adds up beside the matrix; ``None`` where the task has no such, or as the matrix.
        loss: mean loss on the hold-out; ``None`` where that is private.
        items: what was said about each row of the hold-out; ``None`` where that is private or not asked.
        receipt: privacy spent; ``None`` without privacy, or when nothing was spent.
    """

    site: str
    examples: int | None = None
    metrics: Mapping[str, float]
    confusion: tuple[tuple[float, ...], ...] | None = None
    sums: tuple[float, ...] | None = None
    loss: float | None = None
    items: Outcomes | None = None
    receipt: Receipt | None = None


def request_text(request: Request) -> str:
    """JSON of a request."""
    return json.dumps(
        {
            "experiment": to_document(request.experiment),
            "version": request.version,
            "round": request.round,
            "base": request.base,
            "directives": dict(request.directives),
        },
        sort_keys=True,
    )


def parse_request(text: str) -> Request:
    """The request in ``text``.

    Raises:
        UpdateRefused: not JSON, keys are missing or unknown, or a value is not what it should be.
        ExperimentError: the experiment in it is not in order.
    """
    found = _object(text, {field.name for field in fields(Request)})
    round = found["round"]
    if type(round) is not int or round < 0:
        raise UpdateRefused("the request's round is not in order", value=round, rule="a whole number of at least 0")
    return Request(
        experiment=from_document(_mapping(found["experiment"])),
        version=str(found["version"]),
        round=round,
        base=str(found["base"]),
        directives={key: _plain(value) for key, value in _mapping(found["directives"]).items()},
    )


def answer_text(answer: Answer) -> str:
    """JSON of an answer; sums, which most tasks do not have, are left out where there are none."""
    told = asdict(answer)
    if answer.sums is None:
        told.pop("sums")
    return json.dumps(told, sort_keys=True)


def parse_answer(text: str) -> Answer:
    """The answer in ``text``; every field is checked, since a site may send anything.

    Raises:
        UpdateRefused: not JSON, keys are missing or unknown, or a value is not what it should be.
    """
    found = _object(text, {field.name for field in fields(Answer)}, may_lack={"sums"})
    try:
        return Answer(
            site=str(found["site"]),
            examples=None if found["examples"] is None else _count(found["examples"]),
            metrics={key: _number(value) for key, value in _mapping(found["metrics"]).items()},
            confusion=_rows(found["confusion"]),
            sums=_sums(found.get("sums")),
            loss=None if found["loss"] is None else _number(found["loss"]),
            items=None if found["items"] is None else _outcomes(_mapping(found["items"])),
            receipt=None if found["receipt"] is None else _receipt(_mapping(found["receipt"])),
        )
    except (TypeError, ValueError) as error:
        raise UpdateRefused(f"the answer's facts are not in order: {error}", value=text[:200]) from error


def _object(text: str, keys: set[str], *, may_lack: Set[str] = frozenset()) -> Mapping[str, object]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UpdateRefused("not JSON", value=text[:80]) from error
    if not isinstance(found, dict) or set(found) | may_lack != keys:
        raise UpdateRefused("unknown or missing keys", value=text[:80], rule=f"exactly {', '.join(sorted(keys))}")
    return found


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise UpdateRefused("not an object", value=value)
    return value


def _plain(value: object) -> float | str | bool:
    if isinstance(value, bool | str):
        return value
    try:
        return _number(value)
    except (TypeError, ValueError) as error:
        raise UpdateRefused("a directive is a finite number, a text, true or false", value=value) from error


def _number(value: object) -> float:
    """A finite number: manifests have no place for any other."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not a number")
    if not -LARGEST <= value <= LARGEST:  # not true of NaN either
        raise ValueError(f"{value!r} is not finite")
    return value


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise ValueError(f"{value!r} is not a count")
    return value


def _rows(value: object) -> tuple[tuple[float, ...], ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        raise TypeError("confusion is not a list of rows")
    return tuple(tuple(float(_number(cell)) for cell in row) for row in value)


def _sums(value: object) -> tuple[float, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise TypeError("sums is not a list")
    return tuple(float(_number(cell)) for cell in value)


def _outcomes(value: Mapping[str, object]) -> Outcomes:
    if set(value) != {field.name for field in fields(Outcomes)}:
        raise TypeError("the items have unknown or missing keys")
    columns = {name: value[name] for name in ("truth", "predicted", "loss")}
    for name, column in columns.items():
        if not isinstance(column, list):
            raise TypeError(f"{name} is not a list")
    return Outcomes(
        parts={label: str(part) for label, part in _mapping(value["parts"]).items()},
        truth=tuple(_count(place) for place in columns["truth"]),  # type: ignore[attr-defined]  # a list, checked above
        predicted=tuple(_count(place) for place in columns["predicted"]),  # type: ignore[attr-defined]
        loss=tuple(_number(nats) for nats in columns["loss"]),  # type: ignore[attr-defined]
    )


def _receipt(value: Mapping[str, object]) -> Receipt:
    kinds = {field.name: field.type for field in fields(Receipt)}
    if set(value) != set(kinds):
        raise TypeError("the receipt has unknown or missing keys")
    for name, kind in kinds.items():
        wanted = str if kind is str else int if kind is int else (int, float)
        if not isinstance(value[name], wanted) or isinstance(value[name], bool):
            raise TypeError(f"the receipt's {name} is not a {kind}")
        if wanted is not str:
            _number(value[name])
    return Receipt(**value)  # type: ignore[arg-type]  # names and types are checked above
