from types import ModuleType

import pytest
from flwr.app import Message, RecordDict
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode import start_client_internal
from flwr.supernode.nodestate import NodeState
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from fedrelease.client.deployment.owed import answer_all, owed

SPARE = ModuleType("flowers_loop")


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Flower's messages ask for in a process."""
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def question(number: int, state: NodeState) -> Message:
    """A message that came."""
    made = Message(RecordDict(), dst_node_id=number, message_type="query")
    made.metadata.__dict__["_message_id"] = f"question-{number}"
    state.store_message(made)
    return made


@pytest.mark.parametrize(("in_step", "left"), [(False, ["question-2"]), (True, [])])
def test_an_answer_to_an_older_question_does_not_take_the_place_of_the_one_that_is_due(
    in_step: bool, left: list[str]
) -> None:
    store = ObjectStoreFactory().store()
    state, sent = InMemoryNodeState(store), list[str]()
    old, new = question(1, state), question(2, state)
    answer = lambda message: Message(RecordDict(), reply_to=message)  # noqa: E731

    def send(message: Message, *facts: object) -> tuple[set[str], str]:
        sent.append(message.metadata.reply_to_message_id)
        if len(sent) == 1:  # only now does the app answer the newer one
            start_client_internal._insert_message(answer(new), state, store)
        return set(), ""

    start_client_internal._insert_message(answer(old), state, store)
    SPARE._push_messages = start_client_internal._push_messages  # type: ignore[attr-defined]
    if in_step:
        answer_all(SPARE)
    SPARE._push_messages(state=state, object_store=store, send=send, push_object=lambda *facts: None)
    assert owed(state) == left
    assert sent == ["question-1", "question-2"][: 2 - len(left)]
