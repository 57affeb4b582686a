"""Bounds of the experiment's dataclasses."""

import re
from collections.abc import Callable

import pytest

from fedrelease.attack import Attack
from fedrelease.errors import ExperimentError
from fedrelease.experiment import (
    Adapter,
    Data,
    Experiment,
    Federation,
    Model,
    Partition,
    Phase,
    Privacy,
    StrategyChoice,
    Training,
)
from fedrelease.virtual_time import VirtualTime

NAN, INFINITY = float("nan"), float("inf")

REFUSED: list[tuple[str, Callable[[], object]]] = [
    ("federation.name", lambda: Federation(name="")),
    ("federation.name", lambda: Federation(name="a b")),
    ("federation.seed", lambda: Federation(seed=-1)),
    ("federation.seed", lambda: Federation(seed=2**31)),
    ("federation.store", lambda: Federation(store="")),
    ("federation.quorum", lambda: Federation(quorum=0.0)),
    ("federation.quorum", lambda: Federation(quorum=NAN)),
    ("federation.deadline_s", lambda: Federation(deadline_s=INFINITY)),
    ("federation.straggler_factor", lambda: Federation(straggler_factor=0.9)),
    ("federation.straggler_factor", lambda: Federation(straggler_factor=NAN)),
    ("federation.evaluators", lambda: Federation(evaluators=-1)),
    ("federation.evaluators", lambda: Federation(evaluators=1.5)),
    ("federation.evaluators", lambda: Federation(evaluators=NAN)),
    ("federation.evaluators", lambda: Experiment(data=Data(partition=Partition(by="virtual", sites=10_001)))),
    ("data.limit_per_site", lambda: Data(limit_per_site=5, partition=Partition(by="virtual"))),
    ("data.partition.rows", lambda: Partition(rows=0)),
    ("virtual_time.examples_per_s", lambda: VirtualTime(examples_per_s=0.0)),
    ("virtual_time.examples_per_s", lambda: VirtualTime(deadline_s=3.0)),
    ("virtual_time.spread", lambda: VirtualTime(examples_per_s=1.0, spread=-1.0)),
    ("virtual_time.mbit_per_s", lambda: VirtualTime(examples_per_s=1.0, mbit_per_s=INFINITY)),
    ("virtual_time.availability", lambda: VirtualTime(examples_per_s=1.0, availability=0.0)),
    ("virtual_time.dropout", lambda: VirtualTime(examples_per_s=1.0, dropout=1.0)),
    ("virtual_time.deadline_s", lambda: VirtualTime(examples_per_s=1.0, deadline_s=NAN)),
    ("attack.kind", lambda: Attack(kind="magic")),
    ("attack.kind", lambda: Attack(share=0.3)),
    ("attack.kind", lambda: Experiment(attack=Attack(kind="backdoor"), data=Data(partition=Partition(by="virtual")))),
    ("attack.kind", lambda: Experiment(attack=Attack(kind="label-flip"), model=Model(task="token-classification"))),
    (
        "attack.kind",
        lambda: Experiment(
            federation=Federation(evaluators=0),
            attack=Attack(kind="scaling"),
            data=Data(partition=Partition(by="virtual", sites=100_001)),
        ),
    ),
    ("attack.share", lambda: Attack(kind="scaling", share=0.6)),
    ("attack.share", lambda: Attack(kind="scaling", share=NAN)),
    ("attack.strength", lambda: Attack(kind="scaling", strength=-1.0)),
    ("attack.strength", lambda: Attack(kind="backdoor", strength=1.5)),
    ("attack.trigger", lambda: Attack(kind="backdoor", trigger=" ")),
    ("attack.target", lambda: Experiment(attack=Attack(kind="backdoor", target="no label"))),
    ("model.adapter.kind", lambda: Adapter(kind="magic")),
    ("model.adapter.rank", lambda: Adapter(rank=0)),
    ("model.adapter.alpha", lambda: Adapter(alpha=0.0)),
    ("model.adapter.layers", lambda: Adapter(layers="last:0")),
    ("model.adapter.layers", lambda: Adapter(layers="first:2")),
    ("model.adapter.layers", lambda: Adapter(layers="last:²")),
    ("model.adapter.layers", lambda: Adapter(layers="last:" + "9" * 5000)),
    ("model.adapter.targets", lambda: Adapter(targets="")),
    ("model.base", lambda: Model(base="")),
    ("model.task", lambda: Model(task="mind-reading")),
    ("model.labels", lambda: Model(labels=("only",))),
    ("model.labels", lambda: Model(labels=("same", "same"))),
    ("data.partition.by", lambda: Partition(by="zodiac")),
    ("data.partition.column", lambda: Partition(column="")),
    ("data.partition.sites", lambda: Partition(sites=0)),
    ("data.partition.alpha", lambda: Partition(alpha=-1.0)),
    ("data.partition.shards", lambda: Partition(shards=0)),
    ("data.source", lambda: Data(source="")),
    ("data.holdout", lambda: Data(holdout=0.0)),
    ("data.server_holdout", lambda: Data(server_holdout=1.0)),
    ("data.limit_per_site", lambda: Data(limit_per_site=0)),
    ("data.holdout_limit", lambda: Data(holdout_limit=0)),
    ("training.epochs", lambda: Training(epochs=0.0)),
    ("training.batch_size", lambda: Training(batch_size=0)),
    ("training.micro_batch", lambda: Training(micro_batch=0)),
    ("training.max_length", lambda: Training(max_length=3)),
    ("training.lr", lambda: Training(lr=NAN)),
    ("training.head_lr", lambda: Training(head_lr=0.0)),
    ("training.optimizer", lambda: Training(optimizer="luck")),
    ("training.schedule", lambda: Training(schedule="lunar")),
    ("training.warmup", lambda: Training(warmup=1.0)),
    ("training.weight_decay", lambda: Training(weight_decay=-0.1)),
    ("training.grad_clip", lambda: Training(grad_clip=-1.0)),
    ("training.patience", lambda: Training(patience=0)),
    ("privacy.unit", lambda: Privacy(unit="household")),
    ("privacy.epsilon", lambda: Privacy(epsilon=0.0)),
    ("privacy.epsilon", lambda: Privacy(epsilon=INFINITY)),
    ("privacy.delta", lambda: Privacy(delta=1.0)),
    ("privacy.clip", lambda: Privacy(clip=NAN)),
    ("privacy.accountant", lambda: Privacy(accountant="abacus")),
    ("privacy.metrics", lambda: Privacy(metrics="shouted")),
    ("phase.strategy.name", lambda: StrategyChoice(name="")),
    ("phase.strategy.lr", lambda: StrategyChoice(knobs={"lr": NAN})),
    ("phase.strategy.a b", lambda: StrategyChoice(knobs={"a b": 1})),
    ("phase.strategy.name", lambda: StrategyChoice(knobs={"name": "fedadam"})),
    ("phase.name", lambda: Phase(name="")),
    ("phase.rounds", lambda: Phase(rounds=0)),
    ("phase.sites_per_round", lambda: Phase(sites_per_round=1.5)),
    ("phase.sites_per_round", lambda: Phase(sites_per_round=0)),
    ("phase.channel", lambda: Phase(channel="nightly")),
    ("phase", lambda: Experiment(phases=())),
    ("training.patience", lambda: Experiment(training=Training(patience=2))),
    ("training.grad_clip", lambda: Experiment(training=Training(grad_clip=1.0))),
]


@pytest.mark.parametrize(("key", "make"), REFUSED)
def test_a_value_out_of_bounds_is_refused_with_its_key_and_the_rule(key: str, make: Callable[[], object]) -> None:
    with pytest.raises(ExperimentError, match=rf"^{re.escape(key)} is out of bounds") as refused:
        make()
    assert refused.value.rule and refused.value.exit_code == 2


def test_the_defaults_are_within_bounds_and_protect_every_example() -> None:
    assert Experiment().privacy.unit == "example"


def test_rounds_are_counted_over_all_phases() -> None:
    assert Experiment(phases=(Phase(rounds=2), Phase(rounds=3))).rounds == 5


def test_one_site_is_a_whole_number_and_all_sites_is_a_share() -> None:
    assert Phase(sites_per_round=7).sites_per_round == 7
    assert Phase(sites_per_round=1.0).sites_per_round == 1.0


def test_patience_and_grad_clip_are_allowed_without_privacy() -> None:
    training = Training(patience=2, grad_clip=1.0)
    assert Experiment(training=training, privacy=Privacy(unit="none")).training.patience == 2
