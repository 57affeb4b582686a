"""Requests and answers: what goes over the wire comes out as it was, and a stranger's text does no harm."""

import json
from dataclasses import replace

import pytest

from fedrelease.errors import ExperimentError, FedreleaseError, UpdateRefused
from fedrelease.experiment import Experiment, Federation, Phase, StrategyChoice
from fedrelease.messages import Answer, Request, answer_text, parse_answer, parse_request, request_text
from fedrelease.privacy import Receipt

REQUEST = Request(
    experiment=Experiment(
        federation=Federation(name="x", seed=3),
        phases=(Phase(rounds=2, strategy=StrategyChoice(name="fedavg", knobs={"weighting": "examples"})),),
    ),
    version="0.1.2",
    round=2,
    base="ab" * 32,
    directives={"proximal_mu": 0.1, "freeze": "lora_A", "dry": True},
)
RECEIPT = Receipt(
    site="a",
    charge="c" * 64,
    pool="train",
    unit="example",
    clip=1.0,
    noise_multiplier=1.1,
    sample_rate=0.1 + 0.2,
    steps=10,
    accountant="prv",
    delta=1e-5,
    epsilon_round=1.5,
    epsilon_total=2.5,
    noise="secure",
)
ANSWER = Answer(
    site="a", examples=12, metrics={"steps": 10.0}, confusion=((1.0, -2.0), (0.0, 4.0)), loss=0.7, receipt=RECEIPT
)


def altered(answer: Answer, **values: object) -> str:
    return json.dumps({**json.loads(answer_text(answer)), **values})


def altered_receipt(**values: object) -> str:
    return altered(ANSWER, receipt={**json.loads(answer_text(ANSWER))["receipt"], **values})


def test_a_request_comes_out_as_it_went_in() -> None:
    assert parse_request(request_text(REQUEST)) == REQUEST


@pytest.mark.parametrize(
    "answer",
    [
        ANSWER,
        Answer(site="b", metrics={}),
        replace(ANSWER, receipt=None, loss=None, examples=0, confusion=None),
    ],
)
def test_an_answer_comes_out_as_it_went_in(answer: Answer) -> None:
    assert parse_answer(answer_text(answer)) == answer


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", "\ud800", "[" * 100_000, '{"a":' * 100_000])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    for parse in (parse_request, parse_answer):
        with pytest.raises(UpdateRefused, match=r"not JSON|unknown or missing keys"):
            parse(text)


@pytest.mark.parametrize("text", [request_text(REQUEST), answer_text(ANSWER)])
def test_unknown_and_missing_keys_are_refused(text: str) -> None:
    parse = parse_request if "directives" in text else parse_answer
    found = json.loads(text)
    for key in found:
        with pytest.raises(UpdateRefused, match="unknown or missing keys"):
            parse(json.dumps({name: value for name, value in found.items() if name != key}))
    with pytest.raises(UpdateRefused, match="unknown or missing keys"):
        parse(json.dumps({**found, "extra": 1}))


@pytest.mark.parametrize("round", ["2", 1.5, -1, True, None, [1]])
def test_a_round_that_is_no_whole_number_is_refused(round: object) -> None:
    with pytest.raises(UpdateRefused, match="round is not in order"):
        parse_request(json.dumps({**json.loads(request_text(REQUEST)), "round": round}))


@pytest.mark.parametrize("directive", [None, [1], {"a": 1}, float("nan"), float("inf")])
def test_a_directive_that_is_no_plain_value_is_refused(directive: object) -> None:
    with pytest.raises(UpdateRefused, match="directive"):
        parse_request(json.dumps({**json.loads(request_text(REQUEST)), "directives": {"mu": directive}}))


def test_an_experiment_that_is_not_in_order_is_refused_by_its_key() -> None:
    document = json.loads(request_text(REQUEST))
    document["experiment"]["training"]["lr"] = -1
    with pytest.raises(ExperimentError, match=r"training\.lr"):
        parse_request(json.dumps(document))


@pytest.mark.parametrize(
    "values",
    [
        {"examples": -1},
        {"examples": 1.5},
        {"examples": "12"},
        {"examples": True},
        {"examples": 10**400},
        {"loss": float("nan")},
        {"loss": float("inf")},
        {"loss": "0.7"},
        {"loss": False},
        {"metrics": {"steps": float("nan")}},
        {"metrics": {"steps": None}},
        {"metrics": {"steps": "1"}},
        {"metrics": {"steps": 10**400}},
        {"metrics": [1]},
        {"confusion": [1, 2]},
        {"confusion": "ab"},
        {"confusion": [[1, None]]},
        {"confusion": [[1, "2"]]},
        {"confusion": [[1, float("-inf")]]},
        {"receipt": "paid"},
        {"receipt": {}},
    ],
)
def test_a_value_that_no_manifest_could_hold_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(UpdateRefused):
        parse_answer(altered(ANSWER, **values))


@pytest.mark.parametrize(
    "values",
    [
        {"clip": float("nan")},
        {"epsilon_round": float("nan")},
        {"epsilon_total": float("inf")},
        {"noise_multiplier": "1"},
        {"noise_multiplier": float("inf")},
        {"steps": 1.5},
        {"steps": True},
        {"site": 7},
        {"extra": 1},
        {"noise": None},
    ],
)
def test_a_receipt_with_a_value_of_another_kind_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(UpdateRefused, match="not in order"):
        parse_answer(altered_receipt(**values))


def test_every_refusal_is_an_error_that_the_server_expects() -> None:
    """A site may send anything: nothing but our own errors comes out of the parser."""
    for number in range(0, len(answer_text(ANSWER)), 3):
        for text in (answer_text(ANSWER)[:number], answer_text(ANSWER)[:number] + "9" + answer_text(ANSWER)[number:]):
            try:
                parse_answer(text)
            except FedreleaseError:
                continue
