"""The ClientApp, driven with Flower's own messages as a node would."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from one_site import make_experiment, make_request, make_site
from torch import Tensor

from fedrelease.client.app import app, resident_base, resident_model
from fedrelease.errors import ModelError, UpdateRefused
from fedrelease.experiment import Experiment
from fedrelease.messages import Answer, Request, parse_answer, request_text
from fedrelease.models.classifier import trainable_state
from fedrelease.server.coded import decoded
from fedrelease.transport import Transport


@pytest.fixture(autouse=True)
def task(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Flower refuses to make messages outside of a task; and no test sees another's resident model."""
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    yield
    resident_base.cache_clear()
    resident_model.cache_clear()


@pytest.fixture
def experiment(tmp_path: Path, tiny_base: Path) -> Experiment:
    return make_experiment(tmp_path, tiny_base)


@pytest.fixture
def request_(experiment: Experiment, tiny_base: Path) -> Request:
    return replace(make_request(experiment), base=resident_base(str(tiny_base)).digest)


@pytest.fixture
def state(experiment: Experiment, tiny_base: Path) -> dict[str, Tensor]:
    return trainable_state(resident_model(str(tiny_base), experiment.model))


@pytest.fixture
def node(tmp_path: Path, tiny_base: Path) -> dict[str, str]:
    make_site(tmp_path, tiny_base)
    (data,) = (path.parent for path in (tmp_path / "cache").rglob("site.json") if path.parent.name == "a")
    return {"site": "a", "data": str(data), "home": str(tmp_path / "home"), "base": str(tiny_base), "noise": "seeded"}


def ask(node: dict[str, str], kind: str, content: RecordDict) -> Message:
    message = Message(content, dst_node_id=1, message_type=kind)
    return app(message, Context(run_id=1, node_id=1, node_config={**node}, state=RecordDict(), run_config={}))


def content(request: Request, state: dict[str, Tensor]) -> RecordDict:
    return RecordDict({"arrays": ArrayRecord(state), "config": ConfigRecord({"request": request_text(request)})})


def answer_of(reply: Message) -> Answer:
    assert not reply.has_error()
    return parse_answer(str(reply.content.config_records["config"]["answer"]))


def test_a_site_tells_its_name(node: dict[str, str]) -> None:
    assert ask(node, "query", RecordDict()).content.config_records["config"] == {"site": "a"}


def test_train_replies_with_trained_arrays_and_a_receipt(
    node: dict[str, str], request_: Request, state: dict[str, Tensor]
) -> None:
    reply = ask(node, "train", content(request_, state))
    trained = reply.content.array_records["arrays"].to_torch_state_dict()
    assert {name: tensor.shape for name, tensor in trained.items()} == {name: t.shape for name, t in state.items()}
    assert not torch.equal(trained["head.bias"], state["head.bias"])
    answer = answer_of(reply)
    assert answer.site == "a"
    assert answer.receipt is not None and answer.receipt.noise == "seeded"


def test_with_a_codec_the_reply_carries_its_arrays_and_the_privacy_is_paid_once(
    node: dict[str, str], request_: Request, state: dict[str, Tensor]
) -> None:
    travelling = replace(request_, experiment=replace(request_.experiment, transport=Transport(codec="int8")))
    reply = ask(node, "train", content(travelling, state))
    arrays = reply.content.array_records["arrays"]
    numbers = sum(tensor.numel() for tensor in state.values())
    assert {name: (array.dtype, array.shape) for name, array in arrays.items()} == {
        "codes": ("int8", (numbers,)),
        "scales": ("float32", (-(-numbers // 64),)),
    }
    assert answer_of(reply).receipt is not None
    assert (Path(node["home"]) / "ledger.jsonl").read_bytes().count(b"\n") == 1
    trained = decoded(travelling, state, "a", arrays.to_torch_state_dict())
    assert not torch.equal(trained["head.bias"], state["head.bias"])


def test_a_private_reply_holds_no_count_of_examples_anywhere(
    node: dict[str, str], request_: Request, state: dict[str, Tensor]
) -> None:
    metrics = ask(node, "train", content(request_, state)).content.metric_records["metrics"]
    assert dict(metrics) == {"steps": 4.0, "num-examples": 1.0}


def test_a_plain_reply_carries_what_flowers_own_strategies_weight_by(
    node: dict[str, str], request_: Request, state: dict[str, Tensor]
) -> None:
    plain = replace(request_.experiment, privacy=replace(request_.experiment.privacy, unit="none"))
    reply = ask(node, "train", content(replace(request_, experiment=plain), state))
    assert reply.content.metric_records["metrics"]["num-examples"] == answer_of(reply).examples
    assert (answer_of(reply).examples or 0) > 20


def test_evaluate_replies_with_a_confusion_matrix_and_no_arrays(
    node: dict[str, str], request_: Request, state: dict[str, Tensor]
) -> None:
    reply = ask(node, "evaluate", content(request_, state))
    assert list(reply.content.array_records) == []
    answer = answer_of(reply)
    assert answer.confusion is not None and len(answer.confusion) == 2
    assert answer.receipt is not None and answer.receipt.pool == "holdout"


def test_the_ledger_lies_in_the_sites_own_home(
    node: dict[str, str], request_: Request, state: dict[str, Tensor]
) -> None:
    ask(node, "train", content(request_, state))
    ask(node, "evaluate", content(request_, state))
    assert (Path(node["home"]) / "ledger.jsonl").read_bytes().count(b"\n") == 2


def test_noise_is_secure_unless_the_node_itself_says_seeded(
    node: dict[str, str], request_: Request, state: dict[str, Tensor]
) -> None:
    for setting in ({}, {"noise": "secure"}, {"noise": "yes"}):
        silent = {name: value for name, value in node.items() if name != "noise"}
        receipt = answer_of(ask({**silent, **setting}, "evaluate", content(request_, state))).receipt
        assert receipt is not None and receipt.noise == "secure"


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_another_base_is_refused(node: dict[str, str], request_: Request, state: dict[str, Tensor], kind: str) -> None:
    with pytest.raises(ModelError, match=r"this site's base is not the server's.*Rule: the digest.*put the server's"):
        ask(node, kind, content(replace(request_, base="0" * 64), state))
    assert not Path(node["home"]).exists()


def test_a_request_that_is_not_in_order_is_refused(node: dict[str, str], state: dict[str, Tensor]) -> None:
    bad = RecordDict({"arrays": ArrayRecord(state), "config": ConfigRecord({"request": "{}"})})
    with pytest.raises(UpdateRefused, match="unknown or missing keys"):
        ask(node, "train", bad)


def test_two_sites_in_one_process_share_the_model_and_not_the_result(
    node: dict[str, str], request_: Request, state: dict[str, Tensor]
) -> None:
    """The resident model carries nothing of one site into the answer of the next."""
    other = {**node, "data": str(Path(node["data"]).parent / "b"), "site": "b", "home": node["home"] + "-b"}
    first = ask(node, "train", content(request_, state)).content.array_records["arrays"].to_torch_state_dict()
    ask(other, "train", content(request_, state))
    again = ask(node, "train", content(request_, state)).content.array_records["arrays"].to_torch_state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert resident_model.cache_info().currsize == 1
