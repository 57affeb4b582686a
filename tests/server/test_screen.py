from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from fake_sites import MATRIX, START, moved, receipt
from torch import Tensor

from fedrelease.errors import UpdateRefused
from fedrelease.experiment import Adapter, Experiment, Federation, Model, Privacy
from fedrelease.messages import Answer
from fedrelease.server.screen import screen, screen_companions, screen_evaluation

PLAIN = Experiment(federation=Federation(max_update_norm=100.0), privacy=Privacy(unit="none"))
PRIVATE = Experiment(privacy=Privacy(epsilon=8.0, delta=1e-5, clip=1.0))
TRAINED = moved("a", "0.1.1", START)


def screened(
    trained: Mapping[str, Tensor] = TRAINED, answer: Answer | None = None, experiment: Experiment = PLAIN
) -> dict[str, Tensor]:
    answer = answer or Answer(site="a", examples=10, metrics={})
    return screen(START, trained, answer, experiment=experiment, site="a")


def test_what_passes_comes_back_as_trained_minus_parent() -> None:
    delta = screened()
    assert delta.keys() == START.keys()
    assert all(torch.equal(delta[name], TRAINED[name] - START[name]) for name in START)


def test_a_site_that_did_not_move_is_accepted_with_a_delta_of_zero() -> None:
    assert all(not part.any() for part in screened(START).values())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"head.bias": None}, "head.bias is missing"),
        ({"head.extra": torch.zeros(2)}, "unknown tensor came.*head.extra"),
        ({"head.bias": torch.zeros(3)}, r"head.bias has another shape.*\(3,\).*\(2,\)"),
        ({"head.bias": torch.zeros(2, 1)}, "head.bias has another shape"),
        ({"head.bias": torch.zeros(2, dtype=torch.float64)}, "head.bias has another dtype.*float64.*float32"),
        ({"head.bias": torch.zeros(2, dtype=torch.int64)}, "head.bias has another dtype"),
        ({"head.bias": torch.tensor([0.0, torch.nan])}, "head.bias has values that are not finite"),
        ({"layer.lora_A": torch.full((2, 3), torch.inf)}, "layer.lora_A has values that are not finite"),
        ({"head.bias": torch.tensor([80.0, 80.0])}, r"too large.*113\.\d.*norm <= 100"),  # sqrt(2 * 80^2) = 113.1
        ({"head.bias": torch.tensor([3e38, 3e38])}, "too large"),
    ],
)
def test_a_tensor_that_is_not_in_order_is_refused_by_name(changes: dict[str, Tensor | None], said: str) -> None:
    wrong = {name: value for name, value in {**START, **changes}.items() if value is not None}
    with pytest.raises(UpdateRefused, match=said):
        screened(wrong)


def test_a_delta_of_just_the_allowed_norm_passes() -> None:
    assert screened({**START, "head.bias": torch.tensor([60.0, 80.0])})  # sqrt(60^2 + 80^2) = 100


def test_nobody_answers_for_another_site() -> None:
    with pytest.raises(UpdateRefused, match=r"names another site.*'b'"):
        screened(answer=Answer(site="b", examples=10, metrics={}))


@pytest.mark.parametrize("examples", [0, -3])
def test_a_count_that_is_no_weight_is_refused(examples: int) -> None:
    with pytest.raises(UpdateRefused, match="examples is at least 1"):
        screened(answer=Answer(site="a", examples=examples, metrics={}))


def test_with_privacy_a_number_of_examples_is_refused() -> None:
    with pytest.raises(UpdateRefused, match="tells its number of examples"):
        screened(answer=Answer(site="a", examples=10, metrics={}, receipt=receipt("a")), experiment=PRIVATE)


def test_with_privacy_a_receipt_is_needed_and_a_sound_one_passes() -> None:
    with pytest.raises(UpdateRefused, match="receipt is missing"):
        screened(answer=Answer(site="a", metrics={}), experiment=PRIVATE)
    assert screened(answer=Answer(site="a", metrics={}, receipt=receipt("a")), experiment=PRIVATE)


WEAK = [
    ("site", "b"),
    ("pool", "holdout"),
    ("unit", "none"),
    ("charge", ""),
    ("accountant", "rdp"),
    ("noise", "none"),
    ("clip", 1.5),
    ("clip", -1.0),
    ("delta", 1e-4),
    ("delta", 0.0),
    ("noise_multiplier", 0.0),
    ("noise_multiplier", float("inf")),
    ("sample_rate", 0.0),
    ("sample_rate", 1.5),
    ("steps", 0),
    ("epsilon_round", float("nan")),
    ("epsilon_total", 8.1),
    ("epsilon_total", 0.0),
    ("epsilon_total", float("nan")),
]


@pytest.mark.parametrize(("field", "value"), WEAK)
def test_a_receipt_that_promises_less_is_refused_by_field(field: str, value: float | str) -> None:
    weak = replace(receipt("a"), **{field: value})  # type: ignore[arg-type]  # the test's own fields
    with pytest.raises(UpdateRefused, match=f"receipt's {field} breaks its rule"):
        screened(answer=Answer(site="a", metrics={}, receipt=weak), experiment=PRIVATE)


HOLDOUT = Answer(site="a", metrics={}, confusion=MATRIX, receipt=receipt("a", "holdout"))


def test_a_noised_hold_out_with_its_receipt_passes_and_so_does_a_site_that_tells_nothing() -> None:
    screen_evaluation(HOLDOUT, experiment=PRIVATE, site="a")
    screen_evaluation(Answer(site="a", metrics={}), experiment=PRIVATE, site="a")
    with pytest.raises(UpdateRefused, match="another site"):
        screen_evaluation(HOLDOUT, experiment=PRIVATE, site="b")


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        (((1.0, 2.0),), "another shape"),
        (((1.0, 2.0), (3.0,)), "another shape"),
        (((1.0, 2.0, 3.0),) * 3, "another shape"),
        ((), "another shape"),
        (((1e300, 0.0), (0.0, 1.0)), "not believable"),
        (((float("nan"), 0.0), (0.0, 1.0)), "not believable"),
    ],
)
def test_a_confusion_matrix_that_cannot_be_one_is_refused(matrix: tuple[tuple[float, ...], ...], said: str) -> None:
    with pytest.raises(UpdateRefused, match=said):
        screen_evaluation(replace(HOLDOUT, confusion=matrix), experiment=PRIVATE, site="a")


@pytest.mark.parametrize(
    ("metrics", "answer", "said"),
    [
        ("noised", replace(HOLDOUT, receipt=None), "receipt is missing"),
        ("noised", replace(HOLDOUT, receipt=receipt("a", "train")), "receipt's pool"),
        ("noised", replace(HOLDOUT, receipt=receipt("a", "holdout", clip=2.0)), "receipt's clip"),
        ("noised", replace(HOLDOUT, loss=0.5), "tells more than was asked.*loss"),
        ("noised", replace(HOLDOUT, metrics={"accuracy_private": 0.5}), "tells more than was asked.*accuracy_private"),
        ("withheld", HOLDOUT, "tells more than was asked.*confusion"),
    ],
)
def test_a_hold_out_must_not_leave_a_site_without_its_noise(metrics: str, answer: Answer, said: str) -> None:
    experiment = replace(PRIVATE, privacy=replace(PRIVATE.privacy, metrics=metrics))
    with pytest.raises(UpdateRefused, match=said):
        screen_evaluation(answer, experiment=experiment, site="a")


def test_exact_metrics_need_no_receipt() -> None:
    experiment = replace(PRIVATE, privacy=replace(PRIVATE.privacy, metrics="exact"))
    screen_evaluation(replace(HOLDOUT, receipt=None, loss=0.5), experiment=experiment, site="a")


@pytest.mark.parametrize("accuracy", [-0.1, 1.1, float("nan")])
def test_an_accuracy_that_cannot_be_one_is_refused(accuracy: float) -> None:
    answer = Answer(site="a", metrics={"accuracy_private": accuracy}, confusion=MATRIX)
    with pytest.raises(UpdateRefused, match="accuracy_private is not believable"):
        screen_evaluation(answer, experiment=PLAIN, site="a")
    screen_evaluation(replace(answer, metrics={"accuracy_private": 1.0}), experiment=PLAIN, site="a")


PAIR: Mapping[str, Tensor] = {"q.lora_A": torch.ones(4, 3), "q.lora_B": torch.ones(2, 4), "head.bias": torch.zeros(2)}
RANKED = replace(PLAIN, model=Model(adapter=Adapter(rank=4, site_ranks={"a": 2})))


def ranked(trained: Mapping[str, Tensor], site: str = "a") -> dict[str, Tensor]:
    return screen(PAIR, trained, Answer(site=site, examples=10, metrics={}), experiment=RANKED, site=site)


def test_a_site_of_lower_rank_answers_in_it_and_its_delta_is_from_the_leading_ranks() -> None:
    start = {**PAIR, "q.lora_A": torch.arange(12.0).reshape(4, 3), "q.lora_B": torch.arange(8.0).reshape(2, 4)}
    trained = {"q.lora_A": torch.zeros(2, 3), "q.lora_B": torch.zeros(2, 2), "head.bias": torch.ones(2)}
    delta = screen(start, trained, Answer(site="a", examples=10, metrics={}), experiment=RANKED, site="a")
    assert delta["q.lora_A"].tolist() == [[0, -1, -2], [-3, -4, -5]]
    assert delta["q.lora_B"].tolist() == [[0, -1], [-4, -5]]


@pytest.mark.parametrize(
    ("site", "ranks", "said"),
    [
        ("a", (4, 4), r"q.lora_A has another shape.*\(4, 3\).*\(2, 3\)"),
        ("a", (2, 4), r"q.lora_B has another shape.*\(2, 4\).*\(2, 2\)"),
        ("a", (1, 1), "q.lora_A has another shape"),
        ("b", (2, 2), r"q.lora_A has another shape.*\(2, 3\).*\(4, 3\)"),
    ],
)
def test_a_rank_that_is_not_the_sites_is_refused_by_name(site: str, ranks: tuple[int, int], said: str) -> None:
    with pytest.raises(UpdateRefused, match=said):
        ranked({**PAIR, "q.lora_A": torch.ones(ranks[0], 3), "q.lora_B": torch.ones(2, ranks[1])}, site)


@pytest.mark.parametrize("wrong", [1e-30, float("nan"), float("inf")])
def test_a_private_tensor_that_comes_all_the_same_is_refused_by_name_and_what_went_out_passes(wrong: float) -> None:
    answer = Answer(site="a", examples=10, metrics={})
    moved_ = {name: value + 0.5 for name, value in PAIR.items()}
    good, leaked = ({**moved_, "q.lora_B": PAIR["q.lora_B"] * 0 + value} for value in (1.0, wrong))
    delta = screen(PAIR, good, answer, experiment=PLAIN, site="a", part="lora_B")
    assert not delta["q.lora_B"].any() and bool(delta["q.lora_A"].all())
    with pytest.raises(UpdateRefused, match=r"q\.lora_B is private to its site, and came.*private = lora_B"):
        screen(PAIR, leaked, answer, experiment=PLAIN, site="a", part="lora_B")
    with pytest.raises(UpdateRefused, match=r"head\.bias is private"):
        screen(PAIR, good, answer, experiment=PLAIN, site="a", part="head")


BESIDE: Mapping[str, Tensor] = {**PAIR, "q.residual": torch.full((2, 3), 7.0)}


def test_a_residual_went_out_and_none_is_expected_back() -> None:
    trained = {name: tensor + 1 for name, tensor in PAIR.items()}
    delta = screen(BESIDE, trained, Answer(site="a", examples=10, metrics={}), experiment=PLAIN, site="a")
    assert delta.keys() == PAIR.keys() and all(bool((part == 1).all()) for part in delta.values())


def test_a_residual_that_comes_back_is_refused_even_if_nothing_moved() -> None:
    with pytest.raises(UpdateRefused, match=r"unknown tensor came.*q\.residual"):
        screen(BESIDE, BESIDE, Answer(site="a", examples=10, metrics={}), experiment=PLAIN, site="a")


def test_companions_are_those_of_what_sites_train() -> None:
    sent = {f"variate/{name}": tensor for name, tensor in PAIR.items()}
    assert screen_companions(BESIDE, sent, ("variate",), experiment=PLAIN).keys() == sent.keys()
    with pytest.raises(UpdateRefused, match=r"unknown tensor came.*variate/q\.residual"):
        beside = {**sent, "variate/q.residual": torch.zeros(2, 3)}
        screen_companions(BESIDE, beside, ("variate",), experiment=PLAIN)
