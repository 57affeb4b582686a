"""The benchmark of codecs: what it asks of each run, and a table of a tiny federation."""

from pathlib import Path

import pytest
from federations import write_federation

from fedrelease.experiment_file import load_experiment
from fedrelease.simulations.bench import codecs
from fedrelease.simulations.bench.codecs import WAYS, Found, experiment_of, main, measure
from fedrelease.simulations.lending import Lender
from fedrelease.transport import CODECS, Transport


def test_every_codec_is_measured_and_every_lossy_one_of_fewer_levels_without_error_feedback_too() -> None:
    transports = {way: experiment_of("default", way, 3).transport for way in WAYS}
    assert transports["float32"] == Transport()
    assert {transport.codec for transport in transports.values()} == set(CODECS)
    assert {way for way, transport in transports.items() if not transport.error_feedback} == {
        "int4-alone",
        "int8-alone",
        "top-k-alone",
    }


def test_runs_differ_in_codec_and_seed_only() -> None:
    one, other = experiment_of("default", "float32", 3), experiment_of("default", "int8", 3, ["training.epochs=2"])
    assert one.federation == other.federation and one.federation.seed == 3
    assert (one.training.epochs, other.training.epochs) == (1.0, 2.0)


@pytest.mark.parametrize("typed", [["--codecs", "zip"], ["--seeds", "one"], ["--study", "none"]])
def test_what_there_is_not_is_refused(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(typed)
    assert ended.value.code == 2 and "usage" in capsys.readouterr().err


def test_the_table_has_bytes_ratio_accuracy_and_the_difference_to_float32(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {"float32": [(4000.0, 0.8, 0.5), (4000.0, 0.7, 0.5)], "int8": [(1000.0, 0.76, None), (1000.0, 0.72, None)]}
    runs = iter(
        Found(bytes_up=b, accuracy=a, loss=loss) for pair in zip(*told.values(), strict=True) for b, a, loss in pair
    )
    monkeypatch.setattr(codecs, "measure", lambda *arguments, **named: next(runs))
    typed = ["--codecs", "float32,int8", "--seeds", "0,1", "--out", str(tmp_path)]
    assert main(typed) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["float32", "4,000", "1.00", "0.7500", "0.7000", "0.8000", "+0.0000", "0.5000"]
    assert lines[2] == ["int8", "1,000", "4.00", "0.7400", "0.7200", "0.7600", "-0.0100", "-"]


@pytest.mark.slow
def test_a_run_is_measured_and_read_again(tmp_path: Path, tiny_base: Path) -> None:
    federation = write_federation(tmp_path, tiny_base)
    experiment = load_experiment(federation.file, ["transport.codec=int8"])
    with Lender(home=tmp_path / "engine", workers=1) as lender:
        first = measure(experiment, tmp_path / "store", cache=federation.cache, lender=lender)
        assert measure(experiment, tmp_path / "store", cache=federation.cache, lender=lender) == first
    assert 0 < first.bytes_up < 10_000 and 0 <= first.accuracy <= 1 and first.loss is None
