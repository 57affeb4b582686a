import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from deployments import free_ports
from server_folders import running_gateway, server_folder, site_folder
from tiny import experiment_text, make_rows

from fedrelease.cli import run
from fedrelease.client.deployment.check import Check
from fedrelease.client.deployment.folder import SiteFolder
from fedrelease.client.deployment.identity_checks import check_identity
from fedrelease.client.deployment.network_checks import check_network, clock_check
from fedrelease.client.deployment.preflight import preflight
from fedrelease.deployment.certificates import new_authority
from fedrelease.experiment_file import load_experiment
from fedrelease.server.deployment.folder import Server

NOW = datetime.now(UTC)
PATIENCE_S = 5.0
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose gateway runs."""
    made = server_folder(tmp_path_factory.mktemp("running"), port=free_ports(1))
    with running_gateway(made):
        yield made


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """A server of which nothing runs."""
    return server_folder(tmp_path, port=free_ports(1))


@pytest.fixture
def site(server: Server, tmp_path: Path, tiny_base: Path) -> SiteFolder:
    rows = make_rows(tmp_path / "rows.csv", sites=("a",), rows=120)
    (tmp_path / "experiment.toml").write_text(experiment_text(tiny_base, rows))
    made = site_folder(server, tmp_path, "a", source=str(rows), base=str(tiny_base))
    text = (made.folder / "site.toml").read_text()
    (made.folder / "site.toml").write_text(f'base = "{tiny_base}"\n{text}')
    return made


def statuses(checks: Iterator[Check]) -> dict[str, str]:
    return {one.name: one.status for one in checks}


def only(checks: Iterator[Check]) -> Check:
    (one,) = checks
    return one


def identity(site: SiteFolder, *, now: datetime = NOW) -> dict[str, Check]:
    return {one.name: one for one in check_identity(site, now=now)}


def everything(site: SiteFolder, folder: Path) -> dict[str, Check]:
    experiment = load_experiment(folder / "experiment.toml")
    return {one.name: one for one in preflight(site, experiment, named=True, now=NOW, patience_s=PATIENCE_S)}


def test_a_whole_folder_with_its_certificate_is_in_order(site: SiteFolder) -> None:
    assert statuses(check_identity(site, now=NOW)) == {"files": "pass", "certificate": "pass"}


def test_a_key_that_others_may_read_fails_with_the_command_that_mends_it(site: SiteFolder) -> None:
    site.key_file.chmod(0o644)
    found = identity(site)["files"]
    assert (found.status, found.hint) == ("fail", f"chmod 600 {site.key_file}")


def test_a_certificate_of_another_key_fails(site: SiteFolder, server: Server, tmp_path: Path) -> None:
    other = site_folder(server, tmp_path, "b")
    site.certificate_file.write_bytes(other.certificate_file.read_bytes())
    assert identity(site)["certificate"].found == "it belongs to another key"


def test_a_certificate_of_another_authority_fails(site: SiteFolder) -> None:
    foreign = new_authority("trial", now=NOW).certificate
    from cryptography.hazmat.primitives.serialization import Encoding

    site.authority_file.write_bytes(foreign.public_bytes(Encoding.PEM))
    assert identity(site)["certificate"].found == "another authority signed it"


@pytest.mark.parametrize(("days", "status"), [(0, "pass"), (699, "pass"), (701, "warn"), (731, "fail"), (-1, "fail")])
def test_a_certificate_warns_for_30_days_before_its_730_end(site: SiteFolder, days: int, status: str) -> None:
    assert identity(site, now=NOW + timedelta(days=days))["certificate"].status == status


def test_a_name_that_nobody_has_a_closed_port_and_no_address_are_told_apart(site: SiteFolder) -> None:
    found = {}
    for server in ("nobody.invalid:9443", f"127.0.0.1:{free_ports(1)}", "here"):
        away = replace(site, settings=replace(site.settings, server=server))
        found[server.partition(":")[0]] = only(check_network(away, patience_s=PATIENCE_S))
    assert {one.status for one in found.values()} == {"fail"}
    assert "no machine is called nobody.invalid" in found["nobody.invalid"].found
    assert "refused" in found["127.0.0.1"].found
    assert "no address" in found["here"].found


def test_a_port_that_never_answers_fails_in_the_time_that_it_was_given(site: SiteFolder) -> None:
    port = int(site.settings.server.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):  # connections come in, and nobody speaks
        assert "no answer within 0.3 s" in only(check_network(site, patience_s=0.3)).found


@contextmanager
def says(port: int, text: bytes) -> Iterator[None]:
    """Somebody who says the same to everyone, without TLS."""
    with socket.create_server(("127.0.0.1", port)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(text)

        thread = threading.Thread(target=answer)
        thread.start()
        yield
        thread.join()


def test_plain_http_in_the_place_of_the_server_is_named(site: SiteFolder) -> None:
    port = int(site.settings.server.rpartition(":")[2])
    with says(port, b"HTTP/1.1 400 Bad Request\r\n\r\n"):
        assert "without TLS" in only(check_network(site, patience_s=PATIENCE_S)).found


def elsewhere(site: SiteFolder, server: str) -> SiteFolder:
    """The site with another address for its server."""
    return replace(site, settings=replace(site.settings, server=server))


def test_a_server_of_another_authority_is_not_trusted(site: SiteFolder, running: Server) -> None:
    found = only(check_network(elsewhere(site, running.settings.listen), patience_s=PATIENCE_S))
    assert "not of this federation's authority" in found.found


def test_a_name_that_the_certificate_does_not_have_is_named(running: Server, tmp_path: Path) -> None:
    site = site_folder(running, tmp_path, "named")
    port = int(running.settings.listen.rpartition(":")[2])
    with tunnel("127.0.0.2", port):
        found = only(check_network(elsewhere(site, f"127.0.0.2:{port}"), patience_s=PATIENCE_S))
    assert "another name than 127.0.0.2" in found.found


@contextmanager
def tunnel(host: str, port: int) -> Iterator[None]:
    """Passes one connection from another address of this machine to 127.0.0.1."""
    with socket.create_server((host, port)) as listener:

        def carry() -> None:
            near, _ = listener.accept()
            with near, socket.create_connection(("127.0.0.1", port)) as far:
                back = threading.Thread(target=_copy, args=(far, near))
                back.start()
                _copy(near, far)
                back.join()

        thread = threading.Thread(target=carry)
        thread.start()
        yield
        thread.join()


def _copy(source: socket.socket, to: socket.socket) -> None:
    try:
        while piece := source.recv(1 << 16):
            to.sendall(piece)
        to.shutdown(socket.SHUT_WR)
    except OSError:
        return


def test_a_gateway_without_its_superlink_fails_but_tells_clock_and_versions(running: Server, tmp_path: Path) -> None:
    site = site_folder(running, tmp_path, "early")
    found = {one.name: one for one in check_network(site, patience_s=PATIENCE_S)}
    assert {name: one.status for name, one in found.items()} == {"network": "fail", "clock": "pass", "versions": "pass"}
    assert "the SuperLink behind it does not (503)" in found["network"].found


def test_a_site_that_agreed_to_another_app_fails(running: Server, tmp_path: Path) -> None:
    site = site_folder(running, tmp_path, "other", bundle="0" * 64)
    found = {one.name: one for one in check_network(site, patience_s=PATIENCE_S)}
    assert found["versions"].status == "fail"
    assert "agreed: 0000000000000000" in found["versions"].found


@pytest.mark.parametrize(
    ("ahead_s", "status"),
    [(0.0, "pass"), (1.9, "pass"), (-1.9, "pass"), (3.0, "warn"), (-9.0, "warn"), (5.0, "fail"), (-10.5, "fail")],
)
def test_a_clock_warns_over_2_s_and_fails_where_it_is_refused_or_over_10_s(ahead_s: float, status: str) -> None:
    assert clock_check(ahead_s, doubt_s=0.0).status == status


def test_the_limits_of_clocks_are_those_of_the_installed_flower() -> None:
    from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE

    from fedrelease.client.deployment.network_checks import AHEAD_S, BEHIND_S

    assert (AHEAD_S, BEHIND_S) == (SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE)


def test_base_rows_and_a_private_step_are_tried_and_nothing_is_kept_or_charged(
    site: SiteFolder, tmp_path: Path
) -> None:
    before = sorted(path.name for path in site.folder.rglob("*"))
    found = everything(site, tmp_path)
    wanted = ("base", "data", "memory", "disk", "training", "ledger")
    assert {name: found[name].status for name in wanted} == dict.fromkeys(wanted, "pass")
    assert "negative 60, positive 60" in found["data"].found
    assert "private steps, gradients by example right" in found["training"].found
    assert found["ledger"].found == "nothing was spent"
    assert sorted(path.name for path in site.folder.rglob("*")) == before


def test_rows_of_another_column_or_without_a_file_fail_and_training_is_not_tried(
    site: SiteFolder, tmp_path: Path
) -> None:
    for settings in ({"label": "stars"}, {"source": str(tmp_path / "gone.csv")}, {"source": ""}):
        found = everything(replace(site, settings=replace(site.settings, **settings)), tmp_path)
        assert (found["data"].status, found["training"].found) == ("fail", "not tried")


def test_a_base_that_is_not_there_fails(site: SiteFolder, tmp_path: Path) -> None:
    away = replace(site, settings=replace(site.settings, base=str(tmp_path)))
    assert "is not a base" in everything(away, tmp_path)["base"].found


def test_a_ledger_in_which_somebody_wrote_fails(site: SiteFolder, tmp_path: Path) -> None:
    site.home.mkdir()
    (site.home / "ledger.jsonl").write_text('{"seal": "0"}\n')
    assert "is not a charge" in everything(site, tmp_path)["ledger"].found


def test_the_command_exits_1_and_tells_every_check(site: SiteFolder, tmp_path: Path, capsys: Capture) -> None:
    assert run(["site", "check", str(tmp_path / "experiment.toml"), "--folder", str(site.folder), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["ok"]
    failed = [one["name"] for one in told["checks"] if one["status"] == "fail"]
    assert failed == ["network"]


def test_without_an_experiment_the_labels_are_those_of_the_rows(site: SiteFolder, capsys: Capture) -> None:
    assert run(["site", "check", "--folder", str(site.folder)]) == 1
    page = capsys.readouterr().out
    assert "negative 60, positive 60" in page
    assert "fedrelease site check EXPERIMENT.toml" in page
    assert "checks failed; mend them" in page
