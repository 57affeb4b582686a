import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from server_folders import server_folder, site_folder, write_run

from fedrelease.cli import run
from fedrelease.server.deployment.folder import Server
from fedrelease.server.deployment.observed import observe
from fedrelease.server.deployment.register import invite
from fedrelease.server.deployment.status import ServerStatus, read_status, status_facts
from fedrelease.server.lock import hold

NOW = datetime.now(UTC)
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """With the sites a and b, an open invitation for c, and the logs of a run."""
    made = server_folder(tmp_path)
    for name in ("a", "b"):
        site_folder(made, tmp_path, name)
    invite(made, "c", days=2, now=NOW)
    write_run(made)
    return made


def status(server: Server) -> ServerStatus:
    return read_status(server, now=NOW)


def test_a_folder_in_which_nothing_ever_ran_has_a_status(tmp_path: Path) -> None:
    found = status(server_folder(tmp_path))
    assert (found.running, found.processes, found.round, found.newest, found.sites) == (False, [], None, None, [])
    assert [one.name for one in found.certificates] == ["server", "authority"]


def test_it_says_who_is_invited_and_who_was_admitted_with_which_key(server: Server) -> None:
    found = status(server)
    assert list(found.invitations) == ["c"]
    assert [one.site for one in found.sites] == ["a", "b"]
    assert len({one.fingerprint for one in found.sites}) == 2


def test_the_round_in_progress_tells_who_answered_and_who_is_waited_for(server: Server) -> None:
    found = status(server).round
    assert found is not None
    assert (found.version, found.phase, found.round, found.rounds, found.step) == ("0.1.2", "main", 2, 3, "train")
    assert (found.answered, found.refused, found.waiting, found.ended) == (["a"], [], ["b"], False)


def test_releases_and_held_ones_are_counted_and_the_newest_says_why_it_is_held(server: Server) -> None:
    found = status(server)
    assert (found.released, found.held, found.bytes_up, found.bytes_down) == (1, 1, 2000, 6000)
    assert found.newest is not None
    assert (found.newest.version, found.newest.held) == ("0.1.1", "worse than 0.0.0")
    assert found.seconds_per_round == 20.0  # (20 + 20) / 2
    assert found.epsilon == 4.5


def test_the_worst_site_counts_whatever_the_order_of_answers(server: Server) -> None:
    observed = observe(server.log_folder)
    observed.hear(
        {"event": "SiteAnswered", "version": "0.1.2", "step": "train", "site": "b", "refused": None, "epsilon": 2.0}
    )
    assert observed.epsilon == 4.5


def test_refusals_and_problems_are_told_with_their_time(server: Server) -> None:
    found = status(server)
    assert found.refusals[0].what.startswith("403 POST /v1/control/start-run from 10.0.0.9: ")
    assert [one.what for one in found.problems] == ["superlink ended with status -9, again in 1.0 s"]


def test_processes_of_a_server_that_does_not_run_are_not_alive_and_their_restarts_are_counted(server: Server) -> None:
    found = {one.name: one for one in status(server).processes}
    assert {name: one.restarts for name, one in found.items()} == {"superlink": 1, "superexec": 0, "gateway": 0}
    assert not any(one.alive for one in found.values())
    assert not status(server).running


def test_a_server_runs_while_somebody_holds_its_lock(server: Server) -> None:
    with hold(server.folder / ".lock"):
        found = status(server)
        assert (found.running, found.pid, found.run) == (True, 4711, "77")
        assert [one.connected for one in found.sites] == [None, None], "no SuperLink answers"


def test_a_new_start_forgets_the_processes_of_the_one_before(server: Server) -> None:
    observed = observe(server.log_folder)
    observed.hear(
        {"event": "started", "process": "server", "pid": 5, "time": "2026-11-23T00:00:00+00:00", "store": "/releases"}
    )
    observed.hear(
        {"event": "process-started", "name": "gateway", "pid": os.getpid(), "time": "2026-11-23T00:00:01+00:00"}
    )
    assert {name: one.starts for name, one in observed.processes.items()} == {"gateway": 1}
    assert (observed.pid, observed.run) == (5, None)


def test_days_until_a_certificate_ends_are_counted_from_now(server: Server) -> None:
    later = read_status(server, now=NOW + timedelta(days=720)).certificates[0]
    assert later.name == "server"
    assert 9.9 < later.days < 10.1  # it is valid for 730 days


def test_the_page_for_people_names_the_round_the_sites_and_what_was_refused(server: Server, capsys: Capture) -> None:
    assert run(["server", "status", "--folder", str(server.folder)]) == 0
    page = capsys.readouterr().out
    for words in (
        "does not run",
        "0.1.2, phase main, round 2 of 3",
        "waiting for",
        "1 released, 1 held",
        "/v1/control/",
    ):
        assert words in page


def test_the_page_for_machines_is_the_status(server: Server, capsys: Capture) -> None:
    assert run(["server", "status", "--folder", str(server.folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told | {"time": ""} == json.loads(json.dumps(status_facts(status(server)))) | {"time": "", **_days(told)}


def _days(told: dict[str, object]) -> dict[str, object]:
    """They went on between the two looks."""
    return {"certificates": told["certificates"]}


def test_a_reason_that_a_site_chose_cannot_steer_the_terminal(server: Server, capsys: Capture, tmp_path: Path) -> None:
    line = {
        "event": "SiteAnswered",
        "version": "0.1.2",
        "step": "train",
        "site": "b",
        "refused": "\x1b[2J",
        "epsilon": None,
    }
    with (server.log_folder / "events.log").open("a") as file:
        file.write(json.dumps(line) + "\n")
    assert run(["server", "status", "--folder", str(server.folder)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_folder_without_a_server_is_a_mistake_with_a_way_out(tmp_path: Path, capsys: Capture) -> None:
    assert run(["server", "status", "--folder", str(tmp_path)]) == 2
    assert "fedrelease server init" in capsys.readouterr().err
