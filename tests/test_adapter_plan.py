"""Which adapter each phase has, as the experiment file says it, and what is refused when the file is read."""

import pytest

from fedrelease.errors import ExperimentError
from fedrelease.experiment import Adapter, AdapterChange, Experiment
from fedrelease.experiment_document import experiment_digest, from_document, to_document
from fedrelease.experiment_file import load_experiment, to_toml

FILE = """
[model]
labels = ["a", "b", "c"]
[model.adapter]
rank = 2
alpha = 6.0
layers = "last:1"
[[phase]]
rounds = 2
labels = ["a", "b"]
[[phase]]
rounds = 1
adapter = { rank = 4 }
[[phase]]
rounds = 1
labels = ["a", "b", "c"]
adapter = { layers = "last:2", targets = "all-linear", site_ranks = { x = 3 }, residual = true }
[[phase]]
rounds = 1
"""


def grows(*settings: str) -> Experiment:
    return load_experiment(None, settings, text=FILE)


def test_a_phase_has_the_adapter_of_the_phase_before_but_for_the_keys_that_it_names() -> None:
    second = Adapter(rank=4, alpha=12.0, layers="last:1")
    third = Adapter(rank=4, alpha=12.0, layers="last:2", targets="all-linear", site_ranks={"x": 3}, residual=True)
    assert grows().phase_adapters == (grows().model.adapter, second, third, third)


def test_alpha_grows_with_the_rank_so_that_their_quotient_stays() -> None:
    """6 / 2 = 3 = 30 / 10."""
    assert AdapterChange(rank=10).of(Adapter(rank=2, alpha=6.0)) == Adapter(rank=10, alpha=30.0)
    assert grows("phase.1.adapter.alpha=12").phase_adapters == grows().phase_adapters


def test_every_round_has_the_adapter_of_its_phase_and_the_base_that_of_the_first_round() -> None:
    assert [grows().adapter_at(round).rank for round in range(7)] == [2, 2, 2, 4, 4, 4, 4]
    assert grows().model_at(2).adapter.layers == "last:1"
    assert (grows().model_at(4).adapter.layers, grows().model_at(4).labels) == ("last:2", ("a", "b", "c"))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("phase.1.adapter.rank=1", r"phase\.1\.adapter\.rank.*Given: 1.*at least 2, the rank of the phase before"),
        ("phase.1.adapter.rank=2000", r"phase\.1\.adapter\.rank.*between 1 and 1024"),
        ("phase.1.adapter.alpha=6", r"phase\.1\.adapter\.alpha.*keeps alpha / rank at 3.*to 12"),
        (
            "phase.3.adapter.layers=last:1",
            r"phase\.3\.adapter\.layers.*at least the layers of the phase before, last:2",
        ),
        ("phase.3.adapter.layers=first:1", r'phase\.3\.adapter\.layers.*is "all" or "last:k"'),
        ("phase.3.adapter.targets=query", r"phase\.3\.adapter\.targets.*modules of the phase before, all-linear"),
        ("phase.3.adapter.residual=false", r"phase\.3\.adapter\.residual.*stays true"),
        ("phase.1.adapter.own_rank=-1", r"phase\.1\.adapter\.own_rank.*between 0 and 1024"),
        ("phase.3.adapter.own_rank=1", r"phase\.3\.adapter\.own_rank.*at least 2, that of the phase before"),
        ("phase.1.adapter.kind=full", r'phase\.1\.adapter\.kind.*is "lora" as in the phase before'),
        ("phase.1.adapter.kind=lora-sb", r"phase\.1\.adapter\.kind.*another.*store of its own"),
        ("phase.2.adapter.site_ranks={ x = 5 }", r"phase\.2\.adapter\.site_ranks.*between 1 and rank = 4"),
        ("phase.2.adapter.site_ranks={}", r"phase\.2\.adapter\.site_ranks.*names at least one site"),
        ("phase.0.adapter.rank=4", r"phase\.0\.adapter.*the first phase has model\.adapter"),
        (
            "phase.1.adapter.dropout=1",
            r"phase\.1\.adapter\.dropout is not a known key.*alpha, kind, layers, own_rank, rank",
        ),
    ],
)
def test_what_could_not_hold_what_was_learned_is_refused_by_phase_key_and_value(setting: str, said: str) -> None:
    with pytest.raises(ExperimentError, match=said):
        grows(*(["phase.2.adapter.own_rank=2"] if "own_rank" in setting else []), setting)


def test_a_phase_may_bring_a_pair_of_each_sites_own() -> None:
    ranks = [adapter.own_rank for adapter in grows("phase.1.adapter.own_rank=2").phase_adapters]
    assert ranks == [0, 2, 2, 2]


def test_with_every_weight_trained_there_is_nothing_to_add() -> None:
    with pytest.raises(ExperimentError, match=r'phase\.1\.adapter\.rank.*left out with kind = "full"'):
        grows("model.adapter.kind=full")


@pytest.mark.parametrize(
    ("before", "after", "fits"),
    [
        ("query", "query,value", True),
        ("query,value", "value,query", True),
        ("query,value", "value", False),
        ("query", "all-linear", True),
        ("all-linear", "query", False),
        ("all-linear", "attention", False),
        ("attention", "query,value,key", True),
    ],
)
def test_targets_may_grow_and_only_where_the_base_alone_can_tell_the_server_will(
    before: str, after: str, fits: bool
) -> None:
    plan = f'[model.adapter]\ntargets = "{before}"\n[[phase]]\n[[phase]]\nadapter = {{ targets = "{after}" }}'
    if fits:
        assert load_experiment(None, text=plan).phase_adapters[1].targets == after
        return
    with pytest.raises(ExperimentError, match=r"line 5: phase\.1\.adapter\.targets"):
        load_experiment(None, text=plan)


def test_layers_grow_from_some_to_all_and_not_back() -> None:
    assert grows("phase.3.adapter.layers=all").phase_adapters[3].layers == "all"
    with pytest.raises(ExperimentError, match=r"phase\.3\.adapter\.layers.*of the phase before, all"):
        grows("phase.2.adapter.layers=all", "phase.3.adapter.layers=last:12")


def test_growing_adapters_survive_the_file_and_the_message_and_count_in_the_digest() -> None:
    assert load_experiment(None, text=to_toml(grows())) == grows() == from_document(to_document(grows()))
    assert experiment_digest(grows()) != experiment_digest(grows("phase.1.adapter.rank=8"))


def test_an_experiment_whose_phases_change_no_adapter_keeps_the_digest_it_had_before_there_was_such_a_key() -> None:
    assert "adapter" not in str(to_document(Experiment())["phase"])
    assert experiment_digest(Experiment()) == "4731ed763c06f116d4faae4ef71ff95eabfe3964d416acb140434f761626c367"


def test_a_site_whose_fedrelease_does_not_know_a_key_of_the_adapter_is_told_which() -> None:
    document = to_document(grows())
    document["phase"][1]["adapter"]["dropout"] = 0.1  # type: ignore[index, call-overload]  # JSON of a version to come
    with pytest.raises(ExperimentError, match=r"phase\.1\.adapter\.dropout is not a known key"):
        from_document(document)
