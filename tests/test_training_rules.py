"""Options of training that do not go together are refused by name, and unset ones leave no trace."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from fedrelease.augment import Augment
from fedrelease.errors import ExperimentError
from fedrelease.experiment import Experiment, Model, Phase, Privacy, StrategyChoice, Training
from fedrelease.experiment_document import experiment_digest, from_document, to_document
from fedrelease.experiment_file import load_experiment, to_toml
from fedrelease.strategies import STRATEGIES
from fedrelease.training_rules import is_plain

IMAGES = Model(task="image-classification", base="mlp:784-8", labels=("a", "b"))
LANGUAGE = Model(task="causal-lm")
NONE = Privacy(unit="none")
SET = {
    "label_smoothing": 0.1,
    "class_weights": {"positive": 2.0},
    "dropout": 0.1,
    "checkpointing": True,
    "augment": Augment(tokens=0.1),
}

REFUSED: list[tuple[str, Callable[[], object]]] = [
    ("training.label_smoothing", lambda: Training(label_smoothing=1.0)),
    ("training.dropout", lambda: Training(dropout=-0.1)),
    ("training.augment.tokens", lambda: Augment(tokens=1.0)),
    ("training.augment.shift", lambda: Augment(shift=65)),
    ("training.label_smoothing", lambda: Experiment(model=LANGUAGE, training=Training(label_smoothing=0.1))),
    ("training.class_weights", lambda: Experiment(training=Training(class_weights={"great": 2.0}))),
    ("training.class_weights", lambda: Experiment(training=Training(class_weights={"positive": 0.0}))),
    ("training.balance_classes", lambda: Experiment(training=Training(balance_classes=True))),
    ("training.keep_best", lambda: Experiment(training=Training(keep_best=True))),
    ("training.augment.tokens", lambda: Experiment(model=LANGUAGE, training=Training(augment=Augment(tokens=0.1)))),
    ("training.augment.tokens", lambda: Experiment(model=IMAGES, training=Training(augment=Augment(tokens=0.1)))),
    ("training.augment.flip", lambda: Experiment(training=Training(augment=Augment(flip=True)))),
    ("training.augment.shift", lambda: Experiment(training=Training(augment=Augment(shift=2)))),
    (
        "training.class_weights",
        lambda: Experiment(training=Training(class_weights={"positive": 2.0}, balance_classes=True), privacy=NONE),
    ),
]


@pytest.mark.parametrize(("key", "make"), REFUSED)
def test_what_does_not_go_together_is_refused_by_its_key(key: str, make: Callable[[], object]) -> None:
    with pytest.raises(ExperimentError, match=rf"^{key} is out of bounds") as refused:
        make()
    assert refused.value.rule and refused.value.hint


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_best_epoch_is_refused_where_sites_keep_a_control_variate_and_nowhere_else(name: str) -> None:
    phases = (Phase(), Phase(strategy=StrategyChoice(name=name)))
    if "variate" in STRATEGIES[name]().directives(1):
        with pytest.raises(ExperimentError, match=rf"training\.keep_best.*false with {name}"):
            Experiment(training=Training(keep_best=True), privacy=NONE, phases=phases)
    else:
        assert Experiment(training=Training(keep_best=True), privacy=NONE, phases=phases).phases == phases


def test_balanced_classes_and_the_best_epoch_are_allowed_without_privacy() -> None:
    training = Training(balance_classes=True, keep_best=True, patience=2)
    assert Experiment(training=training, privacy=NONE).training == training


def test_options_that_are_not_set_are_in_no_document_and_no_digest() -> None:
    assert set(SET) & to_document(Experiment())["training"].keys() == set()  # type: ignore[union-attr]  # a table
    assert is_plain(Training())


@pytest.mark.parametrize("key", SET)
def test_an_option_that_is_set_travels_counts_and_is_written_down(key: str) -> None:
    changed = replace(Experiment(), training=Training(**{key: SET[key]}))  # type: ignore[arg-type]  # fields
    assert not is_plain(changed.training)
    assert experiment_digest(changed) != experiment_digest(Experiment())
    assert from_document(to_document(changed)) == changed
    assert load_experiment(None, text=to_toml(changed)) == changed


def test_weights_of_labels_are_set_on_the_command_line() -> None:
    found = load_experiment(None, ["training.class_weights={ positive = 2 }", "training.augment.tokens=0.1"])
    assert (dict(found.training.class_weights), found.training.augment.tokens) == ({"positive": 2.0}, 0.1)
