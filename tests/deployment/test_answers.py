from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedrelease.client.deployment.answers import KEPT, Answers


def content(number: float) -> RecordDict:
    return RecordDict(
        {
            "arrays": ArrayRecord({"head.bias": torch.tensor([number, -0.0]), "b": torch.ones(2, 3)}),
            "metrics": MetricRecord({"steps": 3.0, "rows": [1, 2]}),
            "config": ConfigRecord({"answer": '{"site": "a"}'}),
        }
    )


def test_an_answer_comes_back_bit_for_bit(tmp_path: Path) -> None:
    given = content(0.1)
    Answers(tmp_path / "answers").keep("q", given)
    again = Answers(tmp_path / "answers").find("q")
    assert again is not None
    assert {name: array.data for name, array in again.array_records["arrays"].items()} == {
        name: array.data for name, array in given.array_records["arrays"].items()
    }
    assert dict(again.metric_records["metrics"]) == {"steps": 3.0, "rows": [1, 2]}
    assert dict(again.config_records["config"]) == {"answer": '{"site": "a"}'}


def test_a_question_that_was_not_asked_has_no_answer_and_a_torn_one_neither(tmp_path: Path) -> None:
    answers = Answers(tmp_path)
    assert answers.find("q") is None
    answers.keep("q", content(0.1))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:50])
    assert answers.find("q") is None


def test_only_the_newest_few_are_kept(tmp_path: Path) -> None:
    answers = Answers(tmp_path)
    for number in range(KEPT + 3):
        answers.keep(f"q{number}", content(number))
    assert [answers.find(f"q{number}") is not None for number in range(KEPT + 3)] == [False] * 3 + [True] * KEPT
