"""A part of the model that stays with its site: what it starts from, what is sent in its place, and what a lost one costs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from one_site import make_experiment, make_request, random_state
from torch import Tensor

from fedrelease.client.left_behind import Shelf
from fedrelease.client.private_part import open_private_part
from fedrelease.client.site import Site, evaluate_site, train_site
from fedrelease.errors import DataError, ModelError, UpdateRefused
from fedrelease.experiment import Experiment, Phase, StrategyChoice
from fedrelease.messages import Request
from fedrelease.models.classifier import TextClassifier, load_state
from fedrelease.models.evaluation import look
from fedrelease.models.metrics import scores
from fedrelease.privacy import Receipt
from fedrelease.private_part import private_names
from fedrelease.update import State, read_state, state_bytes

LORA_B, HEAD = {"private": "lora_B"}, {"private": "head"}


@pytest.fixture
def state(model: TextClassifier) -> dict[str, Tensor]:
    return random_state(model, seed=11)


def asked(folder: Path, base: Path, round: int = 1, *, unit: str = "none", metrics: str = "noised") -> Request:
    """One step a round over all of the few rows: what it ends with hardly depends on the order in which they are drawn."""
    experiment = make_experiment(folder, base, rounds=4, unit=unit, metrics=metrics)
    training = replace(experiment.training, optimizer="sgd", max_steps=1, lr=0.5, batch_size=64)
    request = make_request(replace(experiment, training=training), round=round, version=f"0.1.{round}")
    return replace(request, directives=LORA_B)


def kept(site: Site, request: Request) -> dict[str, Tensor]:
    (folder,) = site.home.glob("private/*")
    return read_state(folder / f"{request.version}.safetensors")


def close(found: State, expected: State) -> bool:
    return found.keys() == expected.keys() and all(
        torch.allclose(found[name], expected[name], atol=1e-6) for name in found
    )


def same(found: State, expected: State) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("directives", [LORA_B, HEAD], ids=str)
def test_a_site_trains_all_from_its_own_part_and_sends_the_servers_in_its_place(
    site: Site,
    state: dict[str, Tensor],
    model: TextClassifier,
    tmp_path: Path,
    tiny_base: Path,
    directives: dict[str, str],
) -> None:
    """Two rounds beside a site that keeps nothing and is sent, in each, what this one is said to start from."""
    names, own = private_names(state, directives["private"]), dict(state)
    assert names
    for round in (1, 2):
        request = replace(asked(tmp_path, tiny_base, round), directives=directives)
        _, plain = train_site(replace(site, home=tmp_path / "plain"), replace(request, directives={}), own, model)
        _, sent = train_site(site, request, state, model)
        assert close(kept(site, request), {name: plain[name] for name in names})
        assert all(torch.equal(sent[name], state[name]) for name in names)
        assert close(sent, {**plain, **{name: state[name] for name in names}})
        assert all(float((plain[name] - own[name]).abs().max()) > 1e-4 for name in names)
        own = {**state, **kept(site, request)}


def test_a_private_site_pays_for_its_own_part_with_the_same_charge(
    site: Site, state: dict[str, Tensor], model: TextClassifier, tmp_path: Path, tiny_base: Path
) -> None:
    request = asked(tmp_path, tiny_base, unit="example")
    answers = [
        train_site(replace(site, home=tmp_path / str(place)), replace(request, directives=wishes), state, model)[0]
        for place, wishes in enumerate(({}, LORA_B))
    ]
    plain, private = (answer.receipt for answer in answers)
    assert isinstance(plain, Receipt) and isinstance(private, Receipt)
    assert replace(plain, charge="") == replace(private, charge="") and plain.charge != private.charge


@pytest.mark.parametrize("unit", ["none", "example"])
def test_a_seeded_site_that_is_asked_again_answers_the_same_bits_and_pays_once(
    site: Site, state: dict[str, Tensor], model: TextClassifier, tmp_path: Path, tiny_base: Path, unit: str
) -> None:
    first, second = (asked(tmp_path, tiny_base, round, unit=unit) for round in (1, 2))
    train_site(site, first, state, model)
    found = [(train_site(site, second, state, model), kept(site, second)) for _ in range(3)]
    assert all(answer == found[0][0][0] and same(sent, found[0][0][1]) for (answer, sent), _ in found)
    assert all(same(part, found[0][1]) for _, part in found)
    assert len(site.ledger.entries()) == (2 if unit == "example" else 0)


@pytest.mark.parametrize("late", [False, True], ids=["before it is kept", "after it is kept"])
def test_a_site_that_is_killed_between_training_and_answering_answers_as_if_it_never_was(
    site: Site,
    state: dict[str, Tensor],
    model: TextClassifier,
    tmp_path: Path,
    tiny_base: Path,
    late: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = (asked(tmp_path, tiny_base, round, unit="example") for round in (1, 2))
    never = replace(site, home=tmp_path / "never")
    for one in (site, never):
        train_site(one, first, state, model)
    keep = Shelf.keep

    def killed(shelf: Shelf, tensors: State) -> None:
        if late:
            keep(shelf, tensors)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Shelf, "keep", killed)
        train_site(site, second, state, model)
    (again, sent), (answer, expected) = (train_site(one, second, state, model) for one in (site, never))
    assert again == answer and same(sent, expected) and same(kept(site, second), kept(never, second))
    assert site.ledger.entries() == never.ledger.entries()


def test_answers_from_unlike_parts_do_not_share_their_noise(
    site: Site, state: dict[str, Tensor], model: TextClassifier, tmp_path: Path, tiny_base: Path
) -> None:
    first, second = (asked(tmp_path, tiny_base, round, unit="example") for round in (1, 2))
    train_site(site, first, state, model)
    receipts = [
        train_site(one, second, state, model)[0].receipt for one in (site, replace(site, home=tmp_path / "new"))
    ]
    assert receipts[0] and receipts[1] and receipts[0].charge != receipts[1].charge


def test_the_last_two_are_kept_and_a_phase_of_another_strategy_begins_anew(tmp_path: Path) -> None:
    state = {"q.lora_B": torch.zeros(2)}
    plan = [
        Phase(name=f"p{n}", strategy=StrategyChoice(name=s))
        for n, s in enumerate(("fedsa-lora", "fedavg", "fedsa-lora"))
    ]

    def opened(version: str) -> Tensor:
        request = replace(make_request(Experiment(phases=tuple(plan)), version=version), directives=LORA_B)
        part = open_private_part(tmp_path, request, state)
        assert part is not None
        part.end(state, {"q.lora_B": part.own["q.lora_B"] + 1})
        return part.own["q.lora_B"]

    assert [opened(version).tolist()[0] for version in ("0.1.9", "0.1.10", "0.1.11", "0.1.11", "0.3.1")] == [
        0,
        1,
        2,
        2,
        0,
    ]
    assert sorted(path.name for path in tmp_path.glob("private/*/*")) == ["0.1.11.safetensors", "0.3.1.safetensors"]


def test_a_site_whose_part_is_gone_says_so_and_is_charged_nothing_until_its_owner_lets_it_begin_anew(
    site: Site, state: dict[str, Tensor], model: TextClassifier, tmp_path: Path, tiny_base: Path
) -> None:
    first, second = (asked(tmp_path, tiny_base, round, unit="example", metrics="exact") for round in (1, 2))
    train_site(site, first, state, model)
    (file,) = site.home.glob("private/*/*")
    file.unlink()
    for refused in (train_site, evaluate_site):
        with pytest.raises(DataError, match=r"private part is gone.*remove the folder"):
            refused(site, second, state, model)
    assert len(site.ledger.entries()) == 1
    file.parent.rmdir()
    train_site(site, second, state, model)
    fresh = replace(site, home=tmp_path / "fresh")
    train_site(fresh, second, state, model)
    assert same(kept(site, second), kept(fresh, second)) and len(site.ledger.entries()) == 2


def test_a_part_that_is_torn_or_of_another_model_is_refused_with_its_file_and_costs_nothing(
    site: Site, state: dict[str, Tensor], model: TextClassifier, tmp_path: Path, tiny_base: Path
) -> None:
    first, second = (asked(tmp_path, tiny_base, round, unit="example") for round in (1, 2))
    train_site(site, first, state, model)
    (file,) = site.home.glob("private/*/*")
    whole = file.read_bytes()
    for data, kind, said in (
        (whole[:-1], UpdateRefused, "cannot be read"),
        (b"", UpdateRefused, "cannot be read"),
        (state_bytes({"q.lora_B": torch.zeros(2)}), DataError, r"private part does not fit.*0\.1\.1\.safetensors"),
    ):
        file.write_bytes(data)
        with pytest.raises(kind, match=said):
            train_site(site, second, state, model)
    assert len(site.ledger.entries()) == 1


def test_the_release_is_measured_as_released_and_beside_it_with_the_sites_own_part(
    site: Site, state: dict[str, Tensor], model: TextClassifier, tmp_path: Path, tiny_base: Path
) -> None:
    """The part of the round itself, once the site has trained in it; a part that turns every answer round shows."""
    request = asked(tmp_path, tiny_base)
    part = open_private_part(site.home, replace(request, directives=HEAD), state)
    assert part is not None
    turned = {name: -value for name, value in part.own.items()}
    plain = evaluate_site(site, replace(request, directives={}), state, model)
    new = evaluate_site(site, replace(request, directives=HEAD), state, model)
    part.end(state, turned)
    answer = evaluate_site(site, replace(request, directives=HEAD), state, model)
    assert plain.metrics == {} and plain.confusion == new.confusion == answer.confusion
    load_state(model, state)
    accuracy = scores(look(model, site.data.holdout, ("a", "b")).matrix)["accuracy"]
    assert new.metrics == {"accuracy_private": accuracy}
    assert answer.metrics == {"accuracy_private": pytest.approx(1 - accuracy)} and accuracy != 0.5


@pytest.mark.parametrize(("metrics", "told"), [("exact", ["accuracy_private"]), ("noised", []), ("withheld", [])])
def test_what_has_no_noise_is_told_only_where_metrics_may_leave_without(
    site: Site,
    state: dict[str, Tensor],
    model: TextClassifier,
    tmp_path: Path,
    tiny_base: Path,
    metrics: str,
    told: list[str],
) -> None:
    request = asked(tmp_path, tiny_base, unit="example", metrics=metrics)
    train_site(site, request, state, model)
    assert list(evaluate_site(site, request, state, model).metrics) == told
    assert len(site.ledger.entries()) == (2 if metrics == "noised" else 1)


def test_a_model_without_the_part_is_refused_by_its_name(site: Site, tmp_path: Path, tiny_base: Path) -> None:
    with pytest.raises(ModelError, match=r"does not have.*lora_B.*adapter is LoRA"):
        open_private_part(site.home, asked(tmp_path, tiny_base), {"head.bias": torch.zeros(2)})
