"""``site agree``: what is shown, who may consent, and that one key of site.toml changes and nothing else."""

import json
import os
import pty
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployments import free_ports
from server_folders import running_gateway, server_folder, site_folder

from fedrelease import __version__
from fedrelease.cli import run
from fedrelease.client.deployment.agreed import agreed_app, note_agreed
from fedrelease.client.deployment.agreement import agree, agreement
from fedrelease.client.deployment.check import Check
from fedrelease.client.deployment.enrol import enrol
from fedrelease.client.deployment.folder import SiteFolder, open_site_folder
from fedrelease.client.deployment.guard import check_app
from fedrelease.client.deployment.network_checks import check_network
from fedrelease.deployment.bundle import bundle
from fedrelease.deployment.settings import with_text
from fedrelease.errors import ExperimentError, PolicyRefused
from fedrelease.server.deployment.folder import Server
from fedrelease.server.lock import hold

OLD = "0" * 64
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = server_folder(tmp_path_factory.mktemp("running"), port=free_ports(1))
    with running_gateway(made):
        yield made


@pytest.fixture
def site(tmp_path: Path) -> SiteFolder:
    """A site that agreed to an older app; its server does not run."""
    return site_folder(server_folder(tmp_path), tmp_path, "a", bundle=OLD)


def command(site: SiteFolder, *flags: str) -> list[str]:
    return ["site", "agree", "--folder", str(site.folder), "--patience", "0.5", *flags]


def toml(site: SiteFolder) -> str:
    return (site.folder / "site.toml").read_text()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A terminal in the place of the standard input; what is written to it was typed."""
    person, machine = pty.openpty()
    with os.fdopen(machine, "r") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield person
    os.close(person)


def test_yes_writes_the_installed_digest_and_every_other_byte_stays(site: SiteFolder) -> None:
    path, before = site.folder / "site.toml", toml(site)
    path.chmod(0o640)
    assert run(command(site, "--yes")) == 0
    assert toml(site) == before.replace(OLD, bundle().digest) != before
    assert path.stat().st_mode & 0o777 == 0o640
    check_app(open_site_folder(site.folder), bundle().digest)


def test_without_a_terminal_and_without_yes_nothing_is_written(site: SiteFolder, capsys: Capture) -> None:
    before = toml(site)
    assert run(command(site)) == 2
    assert run(command(site, "--json")) == 2
    assert toml(site) == before
    assert "add --yes" in capsys.readouterr().err


@pytest.mark.parametrize(("typed", "code", "agreed"), [(b"y\n", 0, True), (b"n\n", 1, False), (b"\n", 1, False)])
def test_in_a_terminal_a_person_decides(site: SiteFolder, terminal: int, typed: bytes, code: int, agreed: bool) -> None:
    os.write(terminal, typed)
    assert run(command(site)) == code
    assert (open_site_folder(site.folder).settings.bundle == bundle().digest) is agreed


def test_it_shows_what_was_agreed_what_is_installed_and_the_file_that_would_run(
    site: SiteFolder, capsys: Capture
) -> None:
    assert run(command(site, "--yes")) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert f"agreed app {OLD[:16]} (fedrelease unknown, Flower unknown)" in page
    assert f"installed here app {bundle().digest[:16]} (fedrelease {__version__}" in page
    assert "client/app.py" in page and "the server starts it does not answer" in page


def test_what_was_agreed_once_is_known_by_its_versions_and_its_date(site: SiteFolder) -> None:
    assert agreed_app(site).fedrelease == "unknown"
    found = agreed_app(agree(site))
    assert (found.digest, found.fedrelease) == (bundle().digest, __version__) and found.since is not None
    (site.folder / "agreed.jsonl").write_text('{"digest": 1}\n[]\nnothing\n')
    assert agreed_app(site).fedrelease == "unknown"


def test_agreeing_again_changes_nothing_and_asks_nobody(site: SiteFolder, capsys: Capture) -> None:
    agree(site)
    before = (toml(site), (site.folder / "agreed.jsonl").read_bytes())
    assert run(command(site)) == 0
    assert "agreed to this already" in capsys.readouterr().out
    assert (toml(site), (site.folder / "agreed.jsonl").read_bytes()) == before


def test_a_site_that_runs_is_said_to_take_it_at_its_next_start(site: SiteFolder, capsys: Capture) -> None:
    with hold(site.folder / ".lock"):
        assert run(command(site, "--yes")) == 0
    assert "takes it at its next start" in capsys.readouterr().out


def test_json_tells_all_three_apps_and_whether_it_was_written(site: SiteFolder, capsys: Capture) -> None:
    assert run(command(site, "--yes", "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["agreed"]["digest"], told["installed"]["digest"]) == (OLD, bundle().digest)
    assert (told["server"], told["written"]) == (None, True)


def test_the_servers_app_is_asked_for_and_the_same_one_is_called_so(
    running: Server, tmp_path: Path, capsys: Capture
) -> None:
    site = site_folder(running, tmp_path, "asks", bundle=OLD)
    found = agreement(site)
    assert found.server is not None and found.server.digest == bundle().digest
    assert not found.server_differs and not found.is_kept
    assert run(command(site, "--yes", "--patience", "10")) == 0
    assert "): the same" in capsys.readouterr().out


def test_the_preflight_and_the_refusal_of_a_run_name_the_command(running: Server, tmp_path: Path) -> None:
    site = site_folder(running, tmp_path, "behind", bundle=OLD)
    found: dict[str, Check] = {one.name: one for one in check_network(site, patience_s=10)}
    assert found["versions"].hint == "fedrelease site agree"
    with pytest.raises(PolicyRefused, match="fedrelease site agree"):
        check_app(site, bundle().digest)
    with pytest.raises(PolicyRefused, match="both sides install the same version"):
        check_app(site, "f" * 64)


def test_becoming_a_site_notes_what_was_agreed(running: Server, tmp_path: Path) -> None:
    from datetime import UTC, datetime

    from fedrelease.server.deployment.register import invite

    made = enrol(invite(running, "fresh", days=1, now=datetime.now(UTC)), tmp_path / "fresh")
    assert agreed_app(made).fedrelease == __version__
    note_agreed(made)
    assert agreed_app(made).digest == bundle().digest


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('# top\nbundle = "a"    # why\nport = 1\n', '# top\nbundle = "new"    # why\nport = 1\n'),
        ("bundle='a'\r\nport = 1\r\n", 'bundle = "new"\r\nport = 1\r\n'),
        ('port = 1\n[policy]\nbundle = "other"\n', 'bundle = "new"\nport = 1\n[policy]\nbundle = "other"\n'),
        ("", 'bundle = "new"\n'),
        ('site = """\nbundle = "a"\n"""\n', None),
        ('"bundle" = "a"\n', None),
        ('bundle = """a"""\n', None),
    ],
)
def test_one_key_is_changed_and_what_cannot_be_changed_safely_is_left_to_a_person(
    before: str, after: str | None
) -> None:
    if after is None:
        with pytest.raises(ExperimentError, match="cannot be changed by a program"):
            with_text(before, "bundle", "new", place="site.toml")
    else:
        assert with_text(before, "bundle", "new", place="site.toml") == after
        assert tomllib.loads(after)["bundle"] == "new"
