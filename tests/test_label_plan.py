"""Which labels each phase has, as the experiment file says it."""

import pytest

from fedrelease.errors import ExperimentError
from fedrelease.experiment import Experiment
from fedrelease.experiment_document import experiment_digest, from_document, to_document
from fedrelease.experiment_file import load_experiment, to_toml
from fedrelease.label_plan import labels_by_phase, majors

FILE = """
[model]
labels = ["a", "b", "c", "d"]
label_texts = ["text a", "text b", "text c", "text d"]
[[phase]]
labels = ["a", "b"]
rounds = 2
[[phase]]
rounds = 1
[[phase]]
labels = ["a", "b", "c", "d"]
rounds = 3
"""


def grows(*settings: str) -> Experiment:
    return load_experiment(None, settings, text=FILE)


def test_a_phase_that_names_no_labels_has_those_of_the_phase_before_and_the_first_has_all() -> None:
    assert labels_by_phase(("a", "b", "c"), [None, None]) == (("a", "b", "c"), ("a", "b", "c"))
    assert grows().phase_labels == (("a", "b"), ("a", "b"), ("a", "b", "c", "d"))


def test_every_round_has_the_labels_of_its_phase_and_the_base_those_of_the_first_round() -> None:
    assert [len(grows().labels_at(round)) for round in range(7)] == [2, 2, 2, 2, 4, 4, 4]
    assert grows().model_at(3).label_texts == ("text a", "text b")
    assert grows().model_at(4) == grows().model


def test_major_counts_how_often_labels_were_added() -> None:
    two, three = ("a", "b"), ("a", "b", "c")
    assert majors([two, two, three, three, ("a", "b", "c", "d")]) == (0, 0, 1, 1, 2)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ('phase.1.labels=["b", "a"]', r"phase\.1\.labels.*beginning of model\.labels, a, b, c, d, in that order"),
        ('phase.0.labels=["a"]', r"phase\.0\.labels.*at least two labels"),
        ('phase.0.labels=["a", "b", "c"]', None),
        ('phase.1.labels=["a", "b", "c", "d", "e"]', r"phase\.1\.labels.*beginning of model\.labels"),
        ('phase.2.labels=["a", "b", "c"]', r"phase\.2\.labels.*last phase; d would never be learned"),
    ],
)
def test_labels_that_are_taken_away_moved_or_never_learned_are_refused_by_phase(setting: str, said: str | None) -> None:
    if said is None:
        assert grows(setting).phase_labels[0] == ("a", "b", "c")
        return
    with pytest.raises(ExperimentError, match=said):
        grows(setting)


def test_a_label_that_was_released_is_not_taken_away_by_a_later_phase() -> None:
    with pytest.raises(ExperimentError, match=r"phase\.1\.labels.*labels of the phase before, a, b, c, d"):
        grows('phase.0.labels=["a", "b", "c", "d"]', 'phase.1.labels=["a", "b"]')


def test_a_refusal_names_the_line_of_the_phase() -> None:
    with pytest.raises(ExperimentError, match=r"the experiment line 6: phase\.0\.labels"):
        load_experiment(None, text=FILE.replace('labels = ["a", "b"]', 'labels = ["b", "a"]'))


def test_hostile_sites_that_change_labels_are_refused_where_phases_add_labels() -> None:
    with pytest.raises(ExperimentError, match="attack.kind.*where phases add labels"):
        grows("attack.kind=label-flip")
    assert grows("attack.kind=sign-flip").attack.kind == "sign-flip"


def test_growing_labels_survive_the_file_and_the_message_and_count_in_the_digest() -> None:
    assert load_experiment(None, text=to_toml(grows())) == grows() == from_document(to_document(grows()))
    assert experiment_digest(grows()) != experiment_digest(grows("phase.0.labels=none"))


def test_an_experiment_whose_phases_name_no_labels_keeps_the_digest_it_had_before_there_was_such_a_key() -> None:
    assert "labels" not in str(to_document(Experiment())["phase"])
    assert experiment_digest(Experiment()) == "4731ed763c06f116d4faae4ef71ff95eabfe3964d416acb140434f761626c367"
