"""A real deployment: SuperLink, gateway, ServerApp, SuperNodes and executors over TLS with node keys, each a process."""

from pathlib import Path

import pytest
from deployments import Running, deployment

from fedrelease.server.store import Store
from fedrelease.server.tracking.links import links_of
from fedrelease.server.verify import verify


def simulated_digest(running: Running) -> str:
    running.command("simulate", "experiment.toml", "--store", "simulated", "--quiet")
    return Store.open(running.folder / "simulated").releases()[-1].digest


def test_a_federation_of_real_processes_ends_with_the_digest_of_its_simulation(tiny_base: Path, tmp_path: Path) -> None:
    track = ("mlflow:tracked", "tensorboard:experiment.toml")  # the second one is no folder
    with deployment(tmp_path, tiny_base, sites=("a", "b"), rounds=2, track=track) as running:
        assert running.wait() == 0, running.said()
        assert running.versions() == ["0.0.0", "0.1.1", "0.1.2"]
        head = Store.open(running.store).releases()[-1]
        assert [one.site for one in head.manifest.federation.accepted] == ["a", "b"]
        assert simulated_digest(running) == head.digest
        assert verify(Store.open(running.store)).problems == ()
        assert "at delta 1e-05" in running.command("site", "ledger", "--folder", "a")
        assert not secrets_in_logs(running)
        assert tracked_in(running) == {("mlflow", "../tracked")}
        assert running.said().count("tracking: TensorBoard is left out from now on") == 1


def tracked_in(running: Running) -> set[tuple[str, str]]:
    """Where every release of the run is told of."""
    found = [{(link.tracker, link.where) for link in links_of(one)} for one in Store.open(running.store).releases()]
    return set.intersection(*found)


@pytest.mark.slow
def test_states_in_half_precision_and_updates_in_eight_bits_end_with_the_digest_of_their_simulation(
    tiny_base: Path, tmp_path: Path
) -> None:
    travels = '[transport]\ncodec = "int8"\ndown = "float16"'
    with deployment(tmp_path, tiny_base, sites=("a", "b"), rounds=1, training=travels) as running:
        assert running.wait() == 0, running.said()
        head = Store.open(running.store).releases()[-1]
        assert [one.site for one in head.manifest.federation.accepted] == ["a", "b"]
        assert simulated_digest(running) == head.digest


def secrets_in_logs(running: Running) -> list[str]:
    """Lines of logs with a private key, a token, or a row."""
    secrets = [path.read_text() for path in running.folder.rglob("executor.secret")]
    secrets += [
        "PRIVATE KEY",
        *(line.partition(",")[0] for line in (running.folder / "a.csv").read_text().splitlines()[1:]),
    ]
    logs = [path for path in running.folder.rglob("log/*") if path.is_file()]
    assert len(logs) >= 8
    return [
        f"{path}: {line[:80]}"
        for path in logs
        for line in path.read_text(errors="replace").splitlines()
        if any(secret in line for secret in secrets)
    ]
