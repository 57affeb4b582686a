from collections.abc import Callable
from types import ModuleType

import pytest
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectUnavailableError
from flwr.supercore.run import RunNotRunningException

from fedrelease.deployment.pace import set_pace
from fedrelease.deployment.pulls import while_pieces_come


class Clock:
    """Seconds that go by only when somebody says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def pieces_at(clock: Clock, arrive: dict[str, float]) -> Callable[[str], bytes]:
    """Pieces that are there from a time on."""

    def pull(piece: str) -> bytes:
        if clock() < arrive[piece]:
            raise ObjectUnavailableError(piece)
        return piece.encode()

    return pull


def test_pieces_are_waited_for_as_long_as_some_come_however_long_all_take() -> None:
    clock = Clock()
    pull = while_pieces_come(pieces_at(clock, {"a": 80.0, "b": 160.0, "c": 240.0}), patience_s=90.0, clock=clock)
    for clock.now, piece in ((80.0, "a"), (160.0, "b"), (240.0, "c")):
        assert pull(piece) == piece.encode()


def test_a_piece_that_never_comes_is_given_up_when_no_other_came_for_so_long() -> None:
    clock = Clock()
    pull = while_pieces_come(pieces_at(clock, {"a": 50.0, "b": 1e9}), patience_s=90.0, clock=clock)
    clock.now = 50.0
    pull("a")
    clock.now = 140.0  # 90 after the last one
    with pytest.raises(ObjectUnavailableError):
        pull("b")
    clock.now = 140.1
    with pytest.raises(ObjectPullError, match="no piece came for 90 s"):
        pull("b")


def test_a_run_that_is_over_is_an_error_that_flower_ends_its_task_for() -> None:
    def pull(piece: str) -> bytes:
        raise RunNotRunningException

    assert not issubclass(RunNotRunningException, Exception)  # which is why
    with pytest.raises(ObjectPullError, match="its run is over"):
        while_pieces_come(pull, patience_s=90.0)("a")


@pytest.mark.parametrize("named", [True, False])
def test_flowers_own_pulling_ends_with_a_run_that_is_over_however_it_is_called(named: bool) -> None:
    def pull(piece: str) -> bytes:
        raise RunNotRunningException

    module = ModuleType("some_loop_of_flowers")
    module.pull_objects = inflatable_utils.pull_objects  # type: ignore[attr-defined]
    set_pace(module, idle_s=0.5)
    with pytest.raises(ObjectPullError, match="its run is over"):
        if named:
            module.pull_objects(object_ids=["a"], pull_object_fn=pull)
        else:
            module.pull_objects(["a"], pull)
