"""A federation in processes in which unpickling is impossible."""

import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from conftest import Undisturbed  # of this folder
from federations import Federation

REFUSE = """
import os, pickle, sys
import _pickle
import torch

class Refusing(pickle.Unpickler):
    def __init__(self, *arguments, **options):
        raise RuntimeError("pickle was asked to load")

def refuse(*arguments, **options):
    raise RuntimeError("pickle was asked to load")

def listen(event, arguments):
    if event == "pickle.find_class":
        raise RuntimeError("pickle was asked to load")

sys.addaudithook(listen)
for module in (pickle, _pickle):
    module.load = module.loads = refuse
    module.Unpickler = Refusing
pickle._Unpickler = pickle._load = pickle._loads = Refusing
torch.load = refuse
with open(os.environ["WITNESS"], "a") as witness:
    witness.write(" ".join(sys.orig_argv)[:200].replace("\\n", " ") + "\\n")
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "sitecustomize.py").write_text(REFUSE)
    return {"PYTHONPATH": str(tmp_path), "WITNESS": str(tmp_path / "witness.txt")}


ATTEMPTS = """
import io, pickle
import numpy, torch
data = pickle.dumps(numpy.float64(1))
for load in (
    lambda: pickle.loads(data),
    lambda: pickle.load(io.BytesIO(data)),
    lambda: pickle.Unpickler(io.BytesIO(data)),
    lambda: numpy.load("x.npy", allow_pickle=True),
    lambda: torch.load("x"),
):
    try:
        load()
    except Exception as error:
        print("pickle was asked to load" in repr([error, error.__cause__]))
"""


def test_in_such_a_process_unpickling_is_an_error(environment: dict[str, str], tmp_path: Path) -> None:
    """So that the next test can fail."""
    numpy.save(tmp_path / "x.npy", numpy.array([{"a": 1}], dtype=object))
    arguments = [sys.executable, "-P", "-c", ATTEMPTS]
    done = subprocess.run(arguments, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 5


def test_a_whole_federation_runs_without_unpickling_anything(
    federation: Federation, undisturbed: Undisturbed, environment: dict[str, str]
) -> None:
    done = federation.command("simulate", "tiny.toml", "--store", "unpickled", "--quiet", environment=environment)
    assert done.returncode == 0, done.stderr
    witnesses = Path(environment["WITNESS"]).read_text()
    assert "fedrelease.cli" in witnesses and "fedrelease.simulations.worker" in witnesses
    assert federation.digest("unpickled") == undisturbed.digest
