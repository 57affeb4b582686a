"""Server optimizers: every one of torch's, their options, and their memory."""

import conformance
import pytest
import torch
from test_fedavg import numbers
from torch import optim

from fedrelease.errors import ExperimentError
from fedrelease.strategies.fedopt import OPTIMIZERS, DiLoCo, FedAvgM, FedOpt
from fedrelease.update import Update


def update(*values: float) -> Update:
    return Update(site="a", tensors=numbers(*values), examples=1, metrics={}, receipt=None, digest="", size_bytes=0)


EVERY_OPTIMIZER = pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))


def test_every_optimizer_of_torch_is_offered_but_those_that_cannot_step_from_one_gradient() -> None:
    found = {name for name, kind in vars(optim).items() if isinstance(kind, type) and issubclass(kind, optim.Optimizer)}
    assert found - OPTIMIZERS.keys() == {"LBFGS", "Muon", "Optimizer", "SparseAdam"}
    assert all(kind is getattr(optim, name) for name, kind in OPTIMIZERS.items())


@EVERY_OPTIMIZER
def test_every_optimizer_keeps_form_bears_hostile_updates_and_goes_on_bit_for_bit(optimizer: str) -> None:
    rule = FedOpt(optimizer=optimizer, lr=0.1)
    conformance.check_form(rule)
    conformance.check_hostile(rule)
    conformance.check_memory(rule)


@EVERY_OPTIMIZER
def test_every_optimizer_goes_where_torch_goes_with_the_whole_model_in_one(optimizer: str) -> None:
    parent = conformance.parent_of()
    model = {name: torch.nn.Parameter(tensor.double()) for name, tensor in parent.items()}
    reference = OPTIMIZERS[optimizer](list(model.values()), lr=0.1)
    state, memory = dict(parent), {}
    for number in range(1, 4):
        updates = conformance.updates_of(FedOpt(), number)
        for name, parameter in model.items():
            parameter.grad = -torch.stack([one.tensors[name].double() for one in updates]).mean(0)
        reference.step()
        state, memory = map(dict, FedOpt(optimizer=optimizer, lr=0.1).aggregate(state, updates, memory))
    assert conformance.close(state, {name: parameter.detach() for name, parameter in model.items()})


def test_sgd_with_momentum_by_hand_and_its_memory_by_name() -> None:
    """Pseudo-gradients -2 and -1, momentum 0.5, lr 0.1: up by 0.2, then by 0.1 * (0.5 * 2 + 1)."""
    rule = FedOpt(optimizer="SGD", lr=0.1, options="momentum=0.5")
    first, memory = rule.aggregate(numbers(1), [update(2)], {})
    assert first["w"].tolist() == pytest.approx([1.2])
    assert {name: value.tolist() for name, value in memory.items()} == {"SGD.momentum_buffer/w": [-2.0]}
    second, _ = rule.aggregate(first, [update(1)], memory)
    assert second["w"].tolist() == pytest.approx([1.4])


def test_diloco_looks_one_momentum_ahead() -> None:
    """0.7 * (1 + 0.9 * 1) = 1.33, then 0.7 * (1 + 0.9 * (0.9 + 1)) = 1.897."""
    first, memory = DiLoCo().aggregate(numbers(0), [update(1)], {})
    second, _ = DiLoCo().aggregate(first, [update(1)], memory)
    assert [first["w"].item(), second["w"].item() - first["w"].item()] == pytest.approx([1.33, 1.897])


def test_fedavgm_without_momentum_is_fedavg_and_remembers_nothing() -> None:
    state, memory = FedAvgM(momentum=0).aggregate(numbers(1), [update(2)], {})
    assert (state["w"].tolist(), memory) == ([3.0], {})


def test_fedavgm_with_another_rate_than_1_moves_by_that_share() -> None:
    assert FedAvgM(lr=0.5).aggregate(numbers(1), [update(2)], {})[0]["w"].tolist() == [2.0]


@pytest.mark.parametrize(("before", "now"), [("Adam", "AdamW"), ("AdamW", "Adam"), ("SGD", "RMSprop")])
def test_the_memory_of_another_optimizer_is_not_taken_for_ones_own(before: str, now: str) -> None:
    _, another = FedOpt(optimizer=before).aggregate(numbers(1), [update(2)], {})
    found, memory = FedOpt(optimizer=now).aggregate(numbers(1), [update(2)], another)
    fresh, kept = FedOpt(optimizer=now).aggregate(numbers(1), [update(2)], {})
    assert conformance.same(found, fresh) and conformance.same(memory, kept)
    assert memory and all(key.startswith(f"{now}.") for key in memory)


def test_options_are_numbers_truths_and_rows_of_numbers() -> None:
    """With beta1 = 0 and amsgrad in the first round, Adam moves by lr * g / (|g| + eps) = 0.1 * 2 / (2 + 2)."""
    rule = FedOpt(optimizer="Adam", lr=0.1, options="betas=[0, 0.5], amsgrad=true, eps=2")
    state, memory = rule.aggregate(numbers(1), [update(2)], {})
    assert state["w"].tolist() == pytest.approx([1.05])
    assert "Adam.max_exp_avg_sq/w" in memory


@pytest.mark.parametrize(
    ("optimizer", "options", "message"),
    [
        ("Adam", "momentum=0.9", "know no momentum.*Adam has amsgrad, betas"),
        ("SGD", "lr=0.1", "know no lr"),
        ("SGD", "maximize=true", "know no maximize"),
        ("SGD", "momentum", "cannot be read.*name=value"),
        ("SGD", "momentum=__import__('os')", "cannot be read"),
        ("SGD", "momentum='0.9'", "no number in momentum"),
        ("SGD", "momentum=nan", "no number in momentum"),
        ("Adam", "betas=['a', 'b']", "no number in betas"),
        ("SGD", "momentum=0.9 }\nmore = { a=1", "end before the text does"),
        ("SGD", "momentum=-1", "SGD does not take these options.*momentum"),
        ("SGD", "nesterov=true", "SGD does not take these options.*Nesterov"),
        ("Adam", "betas=0.9", "Adam does not take these options"),
        ("Adam", "betas=[0.9]", "Adam does not take these options"),
        ("LBFGS", "", "unknown server optimizer.*LBFGS.*one of ASGD"),
        ("adam", "", "unknown server optimizer.*capitals"),
    ],
)
def test_options_that_the_optimizer_does_not_have_are_refused(optimizer: str, options: str, message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        FedOpt(optimizer=optimizer, options=options)
