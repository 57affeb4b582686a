"""A site's memory of noise multipliers: it saves time, and nothing relies on it."""

from pathlib import Path

import pytest

from fedrelease.client import calibration as module
from fedrelease.client.calibration import Calibrations
from fedrelease.noise import Rest, calibrate


def asked(home: Path, *, epsilon: float = 8.0, steps: int = 12) -> float:
    return Calibrations(home)(epsilon=epsilon, delta=1e-5, sample_rate=0.25, steps=steps)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seen: list[int] = []

    def counted(
        *, epsilon: float, delta: float, sample_rate: float, steps: int, accountant: str, rest: Rest = ()
    ) -> float:
        seen.append(steps)
        return calibrate(
            epsilon=epsilon, delta=delta, sample_rate=sample_rate, steps=steps, accountant=accountant, rest=rest
        )

    monkeypatch.setattr(module, "calibrate", counted)
    return seen


def test_it_answers_as_calibrate_does_and_works_it_out_once(tmp_path: Path, calls: list[int]) -> None:
    expected = calibrate(epsilon=8.0, delta=1e-5, sample_rate=0.25, steps=12)
    assert [asked(tmp_path), asked(tmp_path)] == [expected, expected]
    assert calls == [12]


def test_another_question_is_another_answer(tmp_path: Path, calls: list[int]) -> None:
    assert len({asked(tmp_path), asked(tmp_path, steps=24), asked(tmp_path, epsilon=2.0)}) == 3
    assert calls == [12, 24, 12]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"noise_multiplier": "1"}', '{"noise_multiplier": NaN}', '{"noise_multiplier": -1.0}'],
)
def test_what_cannot_be_a_multiplier_is_worked_out_anew(tmp_path: Path, calls: list[int], text: str) -> None:
    expected = asked(tmp_path)
    (path,) = (tmp_path / "calibrations").iterdir()
    path.write_text(text)
    assert [asked(tmp_path), asked(tmp_path)] == [expected, expected]
    assert calls == [12, 12]


def test_a_plan_of_several_stretches_is_worked_out_once_whichever_of_them_asks(
    tmp_path: Path, calls: list[int]
) -> None:
    asked = {"epsilon": 4.0, "delta": 1e-5, "accountant": "rdp"}
    first = Calibrations(tmp_path)(**asked, sample_rate=0.3, steps=4, rest=((0.1, 9),))  # type: ignore[arg-type]
    later = Calibrations(tmp_path)(**asked, sample_rate=0.1, steps=9, rest=((0.3, 4),))  # type: ignore[arg-type]
    assert first == later
    assert calls == [4]
    assert Calibrations(tmp_path)(**asked, sample_rate=0.3, steps=4) < first  # type: ignore[arg-type]
