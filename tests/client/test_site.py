"""A site's work: what it charges before it trains, and what it lets out of the house."""

from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from one_site import make_experiment, make_request, random_state
from reference import one_gradient
from torch import Tensor

from fedrelease.client import site as site_module
from fedrelease.client.private_step import PrivateOptimizer
from fedrelease.client.site import Site, begin_training, charge_facts, charge_identity, evaluate_site, train_site
from fedrelease.client.training import Job, train
from fedrelease.data.row_files import token_rows
from fedrelease.errors import BudgetExceeded, DataError, ModelError, PrivacyError
from fedrelease.experiment import Adapter, Experiment, Model
from fedrelease.factors import residuals_of, truncated
from fedrelease.messages import Request
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import TextClassifier, build_classifier, canonical_name, load_state, trainable_state
from fedrelease.models.evaluation import look
from fedrelease.noise import calibrate


@pytest.fixture
def experiment(tmp_path: Path, tiny_base: Path) -> Experiment:
    return make_experiment(tmp_path, tiny_base)


@pytest.fixture
def request_(experiment: Experiment) -> Request:
    return make_request(experiment)


@pytest.fixture
def state(model: TextClassifier) -> dict[str, Tensor]:
    return random_state(model, seed=11)


def charged(site: Site) -> int:
    return len(site.ledger.entries())


def with_privacy(request: Request, **privacy: float | str) -> Request:
    changed = replace(request.experiment.privacy, **privacy)  # type: ignore[arg-type]  # names of fields
    return replace(request, experiment=replace(request.experiment, privacy=changed))


def test_private_training_tells_steps_and_a_receipt_and_nothing_else(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier
) -> None:
    answer, _ = train_site(site, request_, state, model)
    steps = round(len(site.data.train) / 8)
    assert answer.metrics == {"steps": steps}
    assert (answer.examples, answer.loss, answer.confusion) == (None, None, None)
    receipt = answer.receipt
    assert receipt is not None
    assert (receipt.site, receipt.pool, receipt.unit, receipt.noise) == ("a", "train", "example", "seeded")
    assert (receipt.steps, receipt.clip, receipt.delta, receipt.accountant) == (steps, 1.0, 1e-5, "prv")


def test_the_sampling_rate_is_batch_size_over_rows(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier
) -> None:
    answer, _ = train_site(site, request_, state, model)
    assert answer.receipt is not None
    assert answer.receipt.sample_rate == 8 / len(site.data.train)


def test_plain_training_tells_the_number_of_examples_and_charges_nothing(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier
) -> None:
    answer, _ = train_site(site, with_privacy(request_, unit="none"), state, model)
    assert (answer.examples, answer.receipt) == (len(site.data.train), None)
    assert not site.home.exists()


def test_training_starts_from_the_state_that_came_and_returns_what_was_trained(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier
) -> None:
    _, trained = train_site(site, request_, state, model)
    assert trained.keys() == state.keys()
    assert all(not torch.equal(trained[name], state[name]) for name in state)
    # 4 steps of AdamW at rate 0.01 move no number by much more than 0.04
    assert max(float((trained[name] - state[name]).abs().max()) for name in state) < 0.06


def test_the_charge_is_on_disk_before_training_starts(
    site: Site,
    request_: Request,
    state: dict[str, Tensor],
    model: TextClassifier,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def crash(_: TextClassifier, job: Job) -> int:
        assert (site.home / "ledger.jsonl").read_bytes().endswith(b"}\n")
        raise KeyboardInterrupt

    monkeypatch.setattr(site_module, "train", crash)
    with pytest.raises(KeyboardInterrupt):
        train_site(site, request_, state, model)
    assert charged(site) == 1


def test_a_seeded_site_that_is_asked_again_answers_the_same_bits_and_pays_once(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier
) -> None:
    first, one = train_site(site, request_, state, model)
    again, other = train_site(replace(site), request_, state, model)
    assert first == again
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert charged(site) == 1


def test_a_secure_site_pays_for_every_attempt(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier
) -> None:
    secure = replace(site, noise="secure")
    (first, one), (second, other) = (train_site(secure, request_, state, model) for _ in range(2))
    assert first.receipt is not None and second.receipt is not None
    assert first.receipt.charge != second.receipt.charge
    assert second.receipt.epsilon_total > first.receipt.epsilon_total
    assert not torch.equal(one["head.weight"], other["head.weight"])
    assert charged(site) == 2


def test_no_two_rounds_share_their_noise(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier
) -> None:
    """The difference of two answers to one state would else be free of it."""
    _, first = train_site(site, request_, state, model)
    _, second = train_site(site, replace(request_, version="0.0.2"), state, model)
    assert not any(torch.equal(first[name], second[name]) for name in state)


def test_a_server_that_sends_other_tensors_under_the_same_version_is_charged_again(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier
) -> None:
    other = {**state, "head.bias": state["head.bias"] + 2**-10}
    train_site(site, request_, state, model)
    train_site(site, request_, other, model)
    assert charged(site) == 2
    with pytest.raises(BudgetExceeded):  # the plan has two rounds
        train_site(site, request_, {**state, "head.bias": state["head.bias"] + 2**-9}, model)


def test_the_rounds_of_the_plan_use_the_budget_up_and_do_not_start_anew(
    site: Site, experiment: Experiment, state: dict[str, Tensor], model: TextClassifier
) -> None:
    receipts = []
    for round in (1, 2):
        answer, state = train_site(site, make_request(experiment, round=round, version=f"0.0.{round}"), state, model)
        receipts.append(answer.receipt)
    first, second = receipts
    assert first is not None and second is not None
    assert first.epsilon_round == second.epsilon_round == first.epsilon_total
    assert first.epsilon_total < second.epsilon_total <= 8.0
    assert second.epsilon_total > 8.0 * 0.998


@pytest.mark.parametrize("pool", ["train", "holdout"])
def test_the_charge_depends_on_everything_that_the_answer_depends_on(
    site: Site, request_: Request, state: dict[str, Tensor], pool: str, tmp_path: Path, tiny_base: Path
) -> None:
    def known(site: Site = site, request: Request = request_, state: dict[str, Tensor] = state) -> str:
        return charge_identity(site, charge_facts(request, state), pool=pool)

    other = replace(request_.experiment, training=replace(request_.experiment.training, lr=0.5))
    changed = [
        known(state={**state, "head.bias": state["head.bias"] + 1e-6}),
        known(request=replace(request_, version="0.0.2")),
        known(request=replace(request_, round=2)),
        known(request=replace(request_, base="c" * 64)),
        known(request=replace(request_, directives={"mu": 0.1})),
        known(request=replace(request_, directives={"mu": "0.2"})),
        known(request=replace(request_, experiment=other)),
        known(request=with_privacy(request_, epsilon=9.0)),
        known(site=replace(site, data=replace(site.data, split="other"))),
        known(site=replace(site, data=replace(site.data, name="b"))),
        known(site=replace(site, noise="secure")),
        known(site=replace(site, noise="secure")),
    ]
    assert known() == known()
    assert len({known(), *changed}) == len(changed) + 1


def test_training_and_evaluation_of_one_state_are_two_charges(
    site: Site, request_: Request, state: dict[str, Tensor]
) -> None:
    shared = charge_facts(request_, state)
    assert charge_identity(site, shared, pool="train") != charge_identity(site, shared, pool="holdout")


def test_where_the_store_lies_does_not_change_the_charge(
    site: Site, request_: Request, state: dict[str, Tensor]
) -> None:
    moved = replace(
        request_.experiment, federation=replace(request_.experiment.federation, store="elsewhere", deadline_s=3600.0)
    )
    other = replace(request_, experiment=moved)
    here, there = charge_facts(request_, state), charge_facts(other, state)
    assert charge_identity(site, here, pool="train") == charge_identity(site, there, pool="train")


def test_a_refused_budget_trains_nothing(
    site: Site,
    request_: Request,
    state: dict[str, Tensor],
    model: TextClassifier,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for round in (1, 2):
        train_site(site, make_request(request_.experiment, round=round, version=f"0.0.{round}"), state, model)
    monkeypatch.setattr(site_module, "train", lambda *_: pytest.fail("it trained"))
    before = (site.home / "ledger.jsonl").read_bytes()
    with pytest.raises(BudgetExceeded):
        train_site(site, make_request(request_.experiment, round=2, version="0.0.3"), state, model)
    assert (site.home / "ledger.jsonl").read_bytes() == before
    assert all(torch.equal(value, state[name]) for name, value in trainable_state(model).items())


def test_a_state_of_another_adapter_costs_nothing(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier
) -> None:
    with pytest.raises(ModelError):
        train_site(site, request_, {"head.bias": state["head.bias"]}, model)
    assert charged(site) == 0


@pytest.mark.parametrize("round", [0, 3, -1])
def test_a_round_outside_of_the_plan_is_refused(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier, round: int
) -> None:
    with pytest.raises(PrivacyError, match="between 1 and 2"):
        train_site(site, replace(request_, round=round), state, model)
    assert charged(site) == 0


@pytest.mark.parametrize("labels", [("positive", "negative"), ("a", "b")])
def test_other_labels_are_refused_for_training_and_evaluation(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier, labels: tuple[str, ...]
) -> None:
    other = replace(
        request_, experiment=replace(request_.experiment, model=replace(request_.experiment.model, labels=labels))
    )
    for work in (train_site, evaluate_site):
        with pytest.raises(DataError, match=r"other labels.*Rule: model\.labels.*prepare"):
            work(site, other, state, model)
    assert charged(site) == 0


def exact(site: Site, state: dict[str, Tensor], model: TextClassifier) -> numpy.ndarray[tuple[int, int], numpy.dtype]:  # type: ignore[type-arg]
    load_state(model, state)
    return look(model, site.data.holdout, ("a", "b")).matrix


def test_a_noised_look_tells_whole_numbers_and_a_receipt_and_nothing_else(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier
) -> None:
    answer = evaluate_site(site, request_, state, model)
    assert (answer.examples, answer.loss, answer.metrics) == (None, None, {})
    assert answer.confusion is not None and answer.receipt is not None
    assert all(cell == int(cell) for row in answer.confusion for cell in row)
    assert "-0.0" not in repr(answer.confusion)
    assert (answer.receipt.pool, answer.receipt.clip, answer.receipt.sample_rate, answer.receipt.steps) == (
        "holdout",
        1.0,
        1.0,
        1,
    )


@pytest.mark.parametrize("noise", [pytest.param("seeded", marks=pytest.mark.slow), "secure"])
def test_the_noise_of_looks_has_the_calibrated_deviation(
    site: Site, state: dict[str, Tensor], model: TextClassifier, tmp_path: Path, tiny_base: Path, noise: str
) -> None:
    """200 looks at 4 counts: 800 numbers, so the deviation is known to 2.5 %."""
    experiment = make_experiment(tmp_path, tiny_base, rounds=199)
    deviation = calibrate(epsilon=8.0, delta=1e-5, sample_rate=1.0, steps=200)
    site = replace(site, noise=noise)
    answers = [
        evaluate_site(site, make_request(experiment, version=f"0.0.{number}"), state, model) for number in range(200)
    ]
    drawn = numpy.array([answer.confusion for answer in answers]) - exact(site, state, model)
    assert drawn.std() == pytest.approx(deviation, rel=0.1)
    assert abs(drawn.mean()) < 4 * deviation / 800**0.5
    last = answers[-1].receipt
    assert last is not None and 8.0 * 0.998 < last.epsilon_total <= 8.0
    with pytest.raises(BudgetExceeded):
        evaluate_site(site, make_request(experiment, version="0.0.200"), state, model)


def test_the_base_and_every_round_can_be_looked_at(
    site: Site, experiment: Experiment, state: dict[str, Tensor], model: TextClassifier
) -> None:
    for round in range(3):  # two rounds and the base
        evaluate_site(site, make_request(experiment, round=round, version=f"0.0.{round}"), state, model)
    with pytest.raises(BudgetExceeded):
        evaluate_site(site, make_request(experiment, round=2, version="0.0.3"), state, model)


def test_training_and_looking_each_have_the_whole_budget_since_no_row_is_in_both(
    site: Site, experiment: Experiment, state: dict[str, Tensor], model: TextClassifier
) -> None:
    for round in (1, 2):
        request = make_request(experiment, round=round, version=f"0.0.{round}")
        train_site(site, request, state, model)
        answer = evaluate_site(site, request, state, model)
    assert answer.receipt is not None
    assert answer.receipt.epsilon_total <= 8.0
    assert {entry.pool for entry in site.ledger.entries()} == {"train", "holdout"}


def test_the_same_look_again_is_the_same_answer(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier
) -> None:
    assert evaluate_site(site, request_, state, model) == evaluate_site(site, request_, state, model)
    assert charged(site) == 1


def test_withheld_tells_nothing_and_costs_nothing(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier
) -> None:
    answer = evaluate_site(site, with_privacy(request_, metrics="withheld"), state, model)
    assert (answer.examples, answer.metrics, answer.confusion, answer.loss, answer.receipt) == (
        None,
        {},
        None,
        None,
        None,
    )
    assert charged(site) == 0


@pytest.mark.parametrize("privacy", [{"metrics": "exact"}, {"unit": "none"}, {"unit": "none", "metrics": "withheld"}])
def test_exact_metrics_and_no_privacy_tell_the_true_counts_and_loss(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier, privacy: dict[str, str]
) -> None:
    answer = evaluate_site(site, with_privacy(request_, **privacy), state, model)
    assert answer.confusion == tuple(tuple(row) for row in exact(site, state, model).tolist())
    assert answer.examples == len(site.data.holdout) == sum(map(sum, answer.confusion or ()))
    assert answer.loss == look(model, site.data.holdout, ("a", "b")).loss
    assert answer.receipt is None


def test_patience_uses_the_sites_own_holdout(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    losses = iter([1.0, 2.0, 3.0])

    def count(model: TextClassifier, rows: object) -> float:
        seen.append(len(site.data.holdout) if rows is site.data.holdout else -1)
        return next(losses)

    monkeypatch.setattr(site_module, "mean_loss", count)
    training = replace(request_.experiment.training, epochs=9, patience=1)
    plain = with_privacy(request_, unit="none")
    answer, _ = train_site(site, replace(plain, experiment=replace(plain.experiment, training=training)), state, model)
    assert seen == [len(site.data.holdout)] * 2
    assert answer.metrics == {"steps": 2 * -(-len(site.data.train) // 8)}


@pytest.mark.parametrize(
    "directives",
    [
        {"momentum": 0.1},
        {"freeze": "head"},
        {"freeze": True},
        {"proximal_mu": -0.1},
        {"proximal_mu": True},
        {"proximal_mu": "0.1"},
        {"tell_loss": 1.0},
        {"variate": "scafold"},
        {"variate": "feddyn"},
        {"variate": "feddyn", "alpha": 0.0},
        {"alpha": 0.1},
        {"variate": "scaffold", "alpha": 0.1},
        {"private": "lora_A"},
        {"private": True},
        {"private": "lora_B", "variate": "scaffold"},
        {"private": "lora_B", "tell_fisher": True},
    ],
    ids=str,
)
def test_a_directive_that_cannot_be_honoured_is_refused_and_costs_nothing(
    site: Site, request_: Request, model: TextClassifier, directives: dict[str, float | str | bool]
) -> None:
    state = trainable_state(model)
    with pytest.raises(ModelError, match=f"cannot do.*{min(directives)}"):
        train_site(site, replace(request_, directives=directives), state, model)
    assert site.ledger.entries() == ()


def test_a_strategy_that_asks_for_it_is_told_the_loss_of_the_state_that_came(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier
) -> None:
    plain = with_privacy(request_, unit="none")
    answer, trained = train_site(site, replace(plain, directives={"tell_loss": True}), state, model)
    _, untold = train_site(site, replace(plain, directives={"tell_loss": False}), state, model)
    load_state(model, state)
    assert answer.metrics["loss"] == look(model, site.data.train, ("a", "b")).loss > 0
    load_state(model, trained)
    assert answer.metrics["loss"] != look(model, site.data.train, ("a", "b")).loss
    assert answer.metrics.keys() == {"loss", "steps"} and untold.keys() == trained.keys()


def test_fisher_information_is_the_mean_square_of_each_rows_gradient_at_the_trained_state(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier
) -> None:
    """The twin takes one row at a time through plain layers."""
    plain = with_privacy(request_, unit="none")
    _, sent = train_site(site, replace(plain, directives={"tell_fisher": True}), state, model)
    trained = {name: value for name, value in sent.items() if not name.startswith("fisher/")}
    assert sent.keys() == {*state, *(f"fisher/{name}" for name in state)}
    load_state(model.eval(), trained)
    parameters = {canonical_name(name): value for name, value in model.named_parameters() if value.requires_grad}
    rows = token_rows(site.data.train)
    squares = [
        [part.square() for part in one_gradient(model, [*parameters.values()], rows, n)] for n in range(len(rows))
    ]
    for place, name in enumerate(parameters):
        expected = torch.stack([one[place] for one in squares]).mean(0)
        torch.testing.assert_close(sent[f"fisher/{name}"], expected, rtol=1e-3, atol=1e-9)


def test_with_privacy_no_site_tells_its_fisher_information(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier
) -> None:
    with pytest.raises(PrivacyError, match=r"tell_fisher.*privacy\.unit is example"):
        train_site(site, replace(request_, directives={"tell_fisher": True}), state, model)
    assert charged(site) == 0


def test_with_privacy_no_server_gets_a_loss_and_asking_costs_nothing(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier
) -> None:
    with pytest.raises(PrivacyError, match=r"tell_loss.*privacy\.unit is example"):
        train_site(site, replace(request_, directives={"tell_loss": True}), state, model)
    answer, _ = train_site(site, replace(request_, directives={"tell_loss": False}), state, model)
    assert answer.metrics.keys() == {"steps"}
    assert charged(site) == 1


@pytest.mark.parametrize("unit", ["example", "none"])
@pytest.mark.parametrize("factor", ["lora_A", "lora_B"])
def test_a_frozen_factor_comes_back_as_it_came_and_everything_else_is_trained(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier, factor: str, unit: str
) -> None:
    request = with_privacy(request_, unit=unit)
    _, after = train_site(site, replace(request, directives={"freeze": factor}), state, model)
    same = {name for name in state if torch.equal(after[name], state[name])}
    assert same == {name for name in state if name.endswith(factor)}
    _, again = train_site(
        site, replace(request, version="0.0.2"), state, model
    )  # the resident model trains all of it again
    assert not {name for name in state if torch.equal(again[name], state[name])}


def test_a_multiplier_that_somebody_lowered_ends_the_plan_early_and_never_overspends(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier
) -> None:
    train_site(site, request_, state, model)
    (path,) = (site.home / "calibrations").iterdir()
    path.write_text('{"noise_multiplier": 0.05}')
    with pytest.raises(BudgetExceeded):
        train_site(site, replace(request_, round=2, version="0.1.2"), state, model)
    assert charged(site) == 1


def with_rank(request: Request, **site_ranks: int) -> Request:
    adapter = replace(request.experiment.model.adapter, site_ranks=site_ranks)
    return replace(
        request,
        experiment=replace(request.experiment, model=replace(request.experiment.model, adapter=adapter)),
    )


@pytest.mark.parametrize("unit", ["none", "example"])
def test_a_site_of_lower_rank_trains_and_tells_the_leading_ranks_only(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier, unit: str
) -> None:
    _, trained = train_site(site, with_rank(with_privacy(request_, unit=unit), a=1), state, model)
    assert trained.keys() == state.keys()
    for name, start in truncated(state, 1).items():
        assert trained[name].shape == start.shape and not torch.equal(trained[name], start)
    assert {len(trained[name]) for name in trained if name.endswith("lora_A")} == {1}


def test_what_it_trains_is_what_a_model_of_that_rank_and_scale_trains(
    site: Site, request_: Request, state: dict[str, Tensor], tiny_base: Path, model: TextClassifier
) -> None:
    """A model that was built with rank 1 and alpha 8 has the scale 8 / 1 = 16 / 2 of the experiment's rank 2 and alpha 16."""
    asked = with_privacy(request_, unit="none")
    _, trained = train_site(site, with_rank(asked, a=1), state, model)
    small = build_classifier(
        open_base(str(tiny_base), cache=tiny_base), Model(adapter=Adapter(rank=1, alpha=8.0, layers="last:1")), seed=0
    )
    load_state(small, truncated(state, 1))
    task = begin_training(
        site, with_rank(asked, a=1), small, shared=charge_facts(with_rank(asked, a=1), state), check=print
    )
    train(small, task.job)
    assert all(torch.equal(trained[name], value) for name, value in trainable_state(small).items())


def test_clipping_and_noise_concern_its_own_numbers_only(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    add_noise = PrivateOptimizer.add_noise

    def counting(self: PrivateOptimizer) -> None:
        seen.append(sum(parameter.numel() for parameter in self.params))
        add_noise(self)

    monkeypatch.setattr(PrivateOptimizer, "add_noise", counting)
    _, trained = train_site(site, with_rank(request_, a=1), state, model)
    assert set(seen) == {sum(value.numel() for value in trained.values())}
    assert seen[0] < sum(value.numel() for value in state.values())


def test_the_resident_model_has_its_own_factors_back_afterwards_even_if_training_fails(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list(model.parameters())
    train_site(site, with_rank(request_, a=1), state, model)
    monkeypatch.setattr(site_module, "train", _dies)
    with pytest.raises(MemoryError):
        train_site(site, with_rank(with_privacy(request_, unit="none"), a=1), state, model)
    assert [id(parameter) for parameter in model.parameters()] == [id(parameter) for parameter in before]
    assert trainable_state(model).keys() == state.keys()


def _dies(*_: object) -> int:
    raise MemoryError


def test_a_frozen_factor_of_lower_rank_comes_back_as_it_went(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier
) -> None:
    asked = replace(with_rank(request_, a=1), directives={"freeze": "lora_A"})
    _, trained = train_site(site, asked, state, model)
    assert all(torch.equal(trained[name], state[name][:1]) for name in state if name.endswith("lora_A"))


def test_a_site_that_is_not_named_trains_every_rank(
    site: Site, request_: Request, state: dict[str, Tensor], model: TextClassifier
) -> None:
    _, trained = train_site(site, with_rank(request_, b=1), state, model)
    assert {name: value.shape for name, value in trained.items()} == {name: v.shape for name, v in state.items()}


def with_residual(request: Request) -> Request:
    adapter = replace(request.experiment.model.adapter, residual=True)
    model = replace(request.experiment.model, adapter=adapter)
    return replace(request, experiment=replace(request.experiment, model=model))


@pytest.fixture
def beside(tiny_base: Path) -> TextClassifier:
    """A model with residuals, every number of which differs from zero."""
    adapter = Adapter(rank=2, layers="last:1", residual=True)
    built = build_classifier(open_base(str(tiny_base), cache=tiny_base), Model(adapter=adapter), seed=3)
    numbers = torch.Generator().manual_seed(5)
    load_state(built, {n: 0.3 * torch.randn(t.shape, generator=numbers) for n, t in trainable_state(built).items()})
    return built


@pytest.mark.parametrize("unit", ["none", "example"])
def test_a_residual_is_received_and_neither_trained_nor_sent(
    site: Site, request_: Request, beside: TextClassifier, unit: str
) -> None:
    sent = trainable_state(beside)
    _, trained = train_site(site, with_residual(with_privacy(request_, unit=unit)), sent, beside)
    assert sent.keys() - trained.keys() == residuals_of(sent) and len(residuals_of(sent)) == 2
    assert not any(torch.equal(trained[name], sent[name]) for name in trained)
    now = trainable_state(beside)
    assert all(torch.equal(now[name], sent[name]) for name in residuals_of(sent))


def test_clipping_and_noise_do_not_know_the_residual(
    site: Site, request_: Request, beside: TextClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    add_noise = PrivateOptimizer.add_noise

    def counting(self: PrivateOptimizer) -> None:
        seen.append(sum(parameter.numel() for parameter in self.params))
        add_noise(self)

    monkeypatch.setattr(PrivateOptimizer, "add_noise", counting)
    _, trained = train_site(site, with_residual(request_), trainable_state(beside), beside)
    assert set(seen) == {sum(value.numel() for value in trained.values())}


def test_another_residual_is_another_question_and_is_paid_for(
    site: Site, request_: Request, beside: TextClassifier
) -> None:
    sent = trainable_state(beside)
    train_site(site, with_residual(request_), sent, beside)
    train_site(site, with_residual(request_), sent, beside)
    assert charged(site) == 1
    name = min(residuals_of(sent))
    train_site(site, with_residual(request_), {**sent, name: sent[name] + 0.1}, beside)
    assert charged(site) == 2
