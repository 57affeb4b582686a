"""Sites in Ray actors: the same releases as from the one-machine engine, and nothing left of Ray afterwards."""

import importlib.util
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import Undisturbed  # of this folder
from federations import Federation, eventually
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedrelease.errors import EngineError
from fedrelease.experiment import Experiment
from fedrelease.simulations import ray_cluster, ray_site
from fedrelease.simulations.leftovers import ray_files
from fedrelease.simulations.ray_cluster import Ray, check_ray, cpus_of_an_actor
from fedrelease.simulations.ray_log import keep_words, libraries_write_to, stderr_written_to
from fedrelease.simulations.ray_site import ASK, READY, RaySettings

RAY = ("--engine", "ray", "--workers", "2")
NODES = ({"site": "a", "base": "nowhere"}, {"site": "b", "base": "nowhere"})


@pytest.mark.parametrize(
    ("nodes", "most", "cpus", "actors"),
    [
        ([8.0], 100, 1, 8),  # no more than there is room for
        ([8.0], 4, 2, 4),
        ([8.0], 3, 3, 2),  # 2 CPUs each would be 4 actors
        ([4.0, 4.0], 4, 2, 4),
        ([4.0, 3.0, 0.0], 5, 2, 3),
        ([4.0, 4.0], 1, 4, 2),  # Flower fills both machines
        ([2.5], 2, 1, 2),
    ],
)
def test_actors_ask_for_so_many_cpus_that_no_more_than_wanted_fit(
    nodes: list[float], most: int, cpus: int, actors: int
) -> None:
    assert cpus_of_an_actor(nodes, most) == (cpus, actors)


def test_a_cluster_without_a_cpu_is_refused() -> None:
    with pytest.raises(EngineError, match="has a CPU"):
        cpus_of_an_actor([0.0, 0.5], 2)


def test_without_ray_its_engine_says_how_to_install_it(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match="Ray is not installed") as caught:
        check_ray()
    assert (caught.value.value, caught.value.rule) == ("--engine ray", "it needs the optional extra 'ray'")
    assert caught.value.hint == 'pip install -c constraints.txt "fedrelease[ray]"'
    with pytest.raises(EngineError, match="Ray is not installed"):
        federation.simulate("without", ray=Ray())
    assert not (federation.folder / "without").exists()


def test_an_address_at_which_nothing_listens_is_refused_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(EngineError, match="no Ray cluster answers there: Connection refused.*ray start --head"):
        ray_cluster._check_listens(f"127.0.0.1:{port}")


def test_something_that_listens_and_is_no_ray_is_refused_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "CONNECT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(EngineError, match="no Ray"):
        ray_cluster._check_listens(f"127.0.0.1:{server.getsockname()[1]}")


def test_what_a_killed_run_left_is_swept_here_and_where_ray_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    old = ray_cluster._fresh_folder(tmp_path / "r.sites")
    own = ray_files(old)
    own.mkdir(parents=True)
    new = ray_cluster._fresh_folder(tmp_path / "r.sites")
    assert (old.exists(), own.exists(), new.exists()) == (False, False, True)
    assert len(own.name) < 30


def test_the_log_gets_what_workers_said_and_not_what_ray_tells_itself(tmp_path: Path) -> None:
    logs = tmp_path / "session_2030" / "logs"
    logs.mkdir(parents=True)
    (logs / "worker-1.err").write_text(":job_id:01\nFatal Python error: Aborted\n")
    (logs / "worker-2.err").write_text(":job_id:01\n")
    keep_words(tmp_path, tmp_path / "engine.log")
    assert (tmp_path / "engine.log").read_text() == "worker-1.err\nFatal Python error: Aborted\n"


def test_what_other_threads_print_goes_to_the_log_and_ones_own_words_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with libraries_write_to(tmp_path / "engine.log"):
        print("mine")
        thread = threading.Thread(target=print, args=("(raylet) noise",))
        thread.start()
        thread.join()
        logging.getLogger("ray").warning("a line of Ray's")
        warnings.simplefilter("always")
        warnings.warn("old", FutureWarning, stacklevel=1)
    assert capsys.readouterr() == ("mine\n", "")
    log = (tmp_path / "engine.log").read_text()
    assert all(text in log for text in ("(raylet) noise", "ray: a line of Ray's", "FutureWarning: old"))


def test_what_is_written_beneath_python_goes_to_the_log_for_a_while(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with stderr_written_to(tmp_path / "engine.log"):
        os.write(2, b"raylet.cc: noise\n")
    os.write(2, b"mine\n")
    assert capfd.readouterr().err == "mine\n"
    assert (tmp_path / "engine.log").read_text() == "raylet.cc: noise\n"


def asked(monkeypatch: pytest.MonkeyPatch, partition: int, **config: str) -> Message:
    """What the ClientApp of an actor replies to a query, here in this process."""
    monkeypatch.setenv(ray_cluster.FOLDER, "somewhere")
    monkeypatch.setattr(ray_site, "_settings", lambda name: RaySettings(nodes=NODES, experiment=Experiment()))
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
    content = RecordDict({"config": ConfigRecord({"ask": "site", **config})})
    message = Message(content, dst_node_id=7, message_type="query")
    node = Context(7, 7, {"partition-id": partition, "num-partitions": 2}, RecordDict(), {})
    return ray_site.app(message, node)


def test_a_node_is_the_site_of_its_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [asked(monkeypatch, place).content.config_records["config"]["site"] for place in (0, 1)]
    assert names == ["a", "b"]


def test_a_machine_that_does_not_see_the_base_says_so_and_its_log_has_the_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reply = asked(monkeypatch, 1, **{ASK: READY})
    assert reply.error.reason == f"EngineError: {os.uname().nodename} does not see nowhere"
    assert "site b failed\nTraceback" in caplog.text


def test_settings_come_back_as_they_were_and_are_withdrawn_at_the_end(tmp_path: Path) -> None:
    settings = RaySettings(nodes=list(NODES), experiment=Experiment())
    settings.write(tmp_path)
    assert RaySettings.read(tmp_path) == settings
    RaySettings.withdraw(tmp_path)
    with pytest.raises(EngineError, match="does not see"):
        RaySettings.read(tmp_path)


needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason='Ray is not installed: pip install -c constraints.txt -e ".[ray]"'
)


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where Ray keeps its own files during the test; short, since sockets lie in there."""
    folder = Path(tempfile.mkdtemp(prefix="fr"))
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    shutil.rmtree(folder)


def processes_of(temporary: Path) -> list[int]:
    """Every process of a Ray that lives in this folder; actors bear other names, but have it from their parents."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TMPDIR") == str(temporary) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [pid for pid in found if pid != os.getpid()]


def actors_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that sites are in, while they are at one."""
    family = psutil.Process(process.pid).children(recursive=True)
    return [child for child in family if "ClientAppActor.run" in child.name()]


def assert_nothing_is_left(federation: Federation, store: str, temporary: Path) -> None:
    eventually(lambda: processes_of(temporary) == [], why="Ray's processes end")
    assert federation.leftovers(store) == []
    assert [path for path in temporary.iterdir() if path.name.startswith("fedrelease-")] == []


@needs_ray
@pytest.mark.slow
def test_a_federation_on_ray_ends_with_the_digest_of_the_one_machine_engine_and_leaves_nothing(
    federation: Federation, undisturbed: Undisturbed, temporary: Path
) -> None:
    done = federation.command("simulate", "tiny.toml", "--store", "on-ray", *RAY, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["head_digest"] == undisturbed.digest
    assert federation.ledger_bytes("on-ray") == undisturbed.ledgers
    talk = done.stderr.split("\n\n")[-1].splitlines()  # after the plan
    released = [["released", version] for version in ("0.0.0", "0.1.1", "0.1.2")]
    assert [line.split()[:2] for line in talk] == released, done.stderr
    assert_nothing_is_left(federation, "on-ray", temporary)
    again = federation.command("simulate", "tiny.toml", "--store", "on-ray", *RAY, "--json", "--quiet")
    assert json.loads(again.stdout)["resumed"] is True


@needs_ray
@pytest.mark.slow
def test_ctrl_c_ends_ray_too_and_the_same_command_goes_on_with_either_engine(
    federation: Federation, undisturbed: Undisturbed, temporary: Path
) -> None:
    process = federation.start("simulate", "tiny.toml", "--store", "stopped", *RAY, before=os.setsid)
    ledgers = federation.folder / "stopped.sites"
    eventually(lambda: process.poll() is not None or list(ledgers.glob("*/ledger.jsonl")), why="the first site answers")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: everything in the foreground gets it
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "run the same command again" in err and "Traceback" not in err and "ray" not in err.lower()
    assert_nothing_is_left(federation, "stopped", temporary)
    federation.simulate("stopped")
    assert federation.digest("stopped") == undisturbed.digest
    assert federation.ledger_bytes("stopped") == undisturbed.ledgers


@needs_ray
@pytest.mark.slow
def test_a_site_whose_process_is_killed_is_asked_once_more_and_the_digest_is_the_same(
    federation: Federation, undisturbed: Undisturbed, temporary: Path
) -> None:
    process = federation.start("simulate", "tiny.toml", "--store", "bled", *RAY, "--quiet")
    ledgers = federation.folder / "bled.sites"
    eventually(lambda: list(ledgers.glob("*/ledger.jsonl")), why="the first site answers")
    eventually(lambda: actors_of(process) or process.poll() is not None, why="an actor is at a site")
    for actor in actors_of(process)[:1]:
        actor.kill()
    _, err = process.communicate(timeout=240)
    assert (process.returncode, err) == (0, "")
    assert federation.digest("bled") == undisturbed.digest
    assert federation.ledger_bytes("bled") == undisturbed.ledgers
    assert_nothing_is_left(federation, "bled", temporary)


@needs_ray
@pytest.mark.slow
def test_a_site_that_fails_is_named_with_its_reason_and_the_log_has_the_traceback(
    federation: Federation, temporary: Path
) -> None:
    ledger = federation.folder / "broken.sites" / "a" / "ledger.jsonl"
    ledger.parent.mkdir(parents=True)
    ledger.write_text("no ledger\n")
    done = federation.command("simulate", "tiny.toml", "--store", "broken", *RAY)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("refused")]
    assert any(line.startswith("refused a in 0.1.1: PrivacyError: ") for line in said), said
    assert all(line.startswith("refused a in ") and "ray" not in line.lower() for line in said)
    assert "site a failed\nTraceback" in (ledger.parents[1] / "engine.log").read_text()
    assert_nothing_is_left(federation, "broken", temporary)


@needs_ray
@pytest.mark.slow
def test_no_ray_at_an_address_is_an_error_in_words(federation: Federation) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    address = ("--ray-address", f"127.0.0.1:{port}")
    done = federation.command("simulate", "tiny.toml", "--store", "alone", *RAY, *address, "--quiet", "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["value"]) == (1, f"127.0.0.1:{port}")
    assert error["what"] == "no Ray cluster answers there: Connection refused"
