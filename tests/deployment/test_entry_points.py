import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "deploy" / "docker"
STUB = """#!/bin/sh
printf '%s' "$1" >> "$SAID"; shift
printf ' %s' "$@" >> "$SAID"; echo >> "$SAID"
"""
START = """if [ "$1" = start ]; then trap 'echo "ended in order" >> "$SAID"; exit 0' TERM; while :; do sleep 0.05; done; fi\n"""
SHELLS = pytest.mark.parametrize("shell", ["sh", "bash"])


class Entry:
    """An entry point with a stub in the place of ``fedrelease``."""

    def __init__(self, folder: Path, name: str, shell: str) -> None:
        self.folder, self.said = folder, folder / "said"
        self._command = [shell, str(SCRIPTS / f"{name}-entry.sh")]
        (folder / "bin").mkdir()
        self.stub(STUB)
        (folder / "home").mkdir()

    def stub(self, text: str) -> None:
        program = self.folder / "bin" / "fedrelease"
        program.write_text(text)
        program.chmod(0o755)

    def sleeps_not(self) -> None:
        """Time passes quickly."""
        program = self.folder / "bin" / "sleep"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)

    def begin(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        own = {"PATH": f"{self.folder / 'bin'}:/usr/bin:/bin", "SAID": str(self.said)}
        own |= {"FEDRELEASE_FOLDER": str(self.folder / "home"), "FEDRELEASE_INVITATIONS": str(self.folder)}
        self.said.write_text("")
        return subprocess.Popen(
            [*self._command, *arguments],
            env=own | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, list[str], str]:
        """Exit code, the calls of ``fedrelease``, and what was said to stderr."""
        with self.begin(*arguments, **environment) as process:
            _, said = process.communicate(timeout=20)
        return process.returncode, self.said.read_text().splitlines(), said


@pytest.fixture
def entry(tmp_path: Path, request: pytest.FixtureRequest) -> Entry:
    name, shell = request.param
    return Entry(tmp_path, name, shell)


SERVERS = pytest.mark.parametrize("entry", [("server", "sh"), ("server", "bash")], indirect=True, ids=["sh", "bash"])
SITES = pytest.mark.parametrize("entry", [("site", "sh"), ("site", "bash")], indirect=True, ids=["sh", "bash"])


@pytest.mark.parametrize("name", ["server", "site"])
@SHELLS
def test_an_entry_point_is_a_program_that_the_shell_can_read(name: str, shell: str) -> None:
    path = SCRIPTS / f"{name}-entry.sh"
    assert path.stat().st_mode & 0o111
    assert path.read_text().startswith("#!/bin/sh\n")
    assert subprocess.run([shell, "-n", str(path)], capture_output=True).returncode == 0


@SERVERS
def test_the_first_start_of_a_server_makes_its_folder_invites_and_starts(entry: Entry) -> None:
    code, said, _ = entry.run(FEDRELEASE_ADDRESSES="fed.example.org 10.0.0.4", FEDRELEASE_SITES="north south")
    home = entry.folder / "home"
    assert code == 0
    assert said == [
        f"server init --folder {home} --name federation --listen 0.0.0.0 --port 9443"
        " --address fed.example.org --address 10.0.0.4",
        f"server invite north --folder {home} --out {entry.folder}/north.invitation",
        f"server invite south --folder {home} --out {entry.folder}/south.invitation",
        f"server start default --folder {home} --store /var/lib/fedrelease/releases",
    ]


@SERVERS
def test_later_starts_make_nothing_anew_and_invite_only_who_is_neither_admitted_nor_invited(entry: Entry) -> None:
    home = entry.folder / "home"
    (home / "sites").mkdir()
    (home / "server.toml").touch()
    (home / "sites" / "north.json").touch()
    (entry.folder / "south.invitation").touch()
    _, said, _ = entry.run(FEDRELEASE_SITES="north south east", FEDRELEASE_EXPERIMENT="/x.toml", FEDRELEASE_STORE="/r")
    assert said == [
        f"server invite east --folder {home} --out {entry.folder}/east.invitation",
        f"server start /x.toml --folder {home} --store /r",
    ]


@SERVERS
def test_a_new_server_without_addresses_is_refused_with_the_name_of_what_is_missing(entry: Entry) -> None:
    code, said, error = entry.run()
    assert code != 0
    assert said == []
    assert "FEDRELEASE_ADDRESSES: names or addresses that sites use" in error


@SERVERS
def test_a_star_in_a_variable_stays_a_star(entry: Entry) -> None:
    _, said, _ = entry.run("prepare", FEDRELEASE_ADDRESSES="*")
    assert said[0].endswith("--address *")


@SERVERS
def test_prepare_starts_nothing_and_other_words_are_a_command_of_ours(entry: Entry) -> None:
    assert [one.split()[1] for one in entry.run("prepare", FEDRELEASE_ADDRESSES="a")[1]] == ["init"]
    assert entry.run("log", "--store", "/r")[1] == ["log --store /r"]


@SERVERS
def test_a_failure_ends_the_container_with_its_own_exit_code(entry: Entry) -> None:
    entry.stub(STUB + '[ "$1" != start ] || exit 7\n')
    for when in ("exit", "wait"):
        assert entry.run(FEDRELEASE_ADDRESSES="a", FEDRELEASE_WHEN_DONE=when)[0] == 7
    entry.stub("#!/bin/sh\nexit 2\n")
    assert entry.run(FEDRELEASE_ADDRESSES="a")[0] == 2


@SERVERS
def test_what_follows_a_plan_is_exit_or_wait_and_nothing_else(entry: Entry) -> None:
    code, _, error = entry.run(FEDRELEASE_ADDRESSES="a", FEDRELEASE_WHEN_DONE="sleep")
    assert (code, "exit or wait, not sleep" in error) == (2, True)


@SERVERS
def test_a_server_that_shall_wait_does_so_after_its_plan_until_a_signal(entry: Entry) -> None:
    with entry.begin(FEDRELEASE_ADDRESSES="a", FEDRELEASE_WHEN_DONE="wait") as process:
        assert process.stderr is not None
        assert "the plan is done" in process.stderr.readline()
        assert process.poll() is None
        process.terminate()
        assert process.wait(20) == 0


@SERVERS
@pytest.mark.parametrize("when", ["exit", "wait"])
def test_a_signal_reaches_the_server_which_ends_in_order(entry: Entry, when: str) -> None:
    entry.stub(STUB + START.replace("while", "echo begun >&2; while"))
    with entry.begin(FEDRELEASE_ADDRESSES="a", FEDRELEASE_WHEN_DONE=when) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "begun\n"
        process.terminate()
        assert process.wait(20) == 0
    assert entry.said.read_text().splitlines()[-1] == "ended in order"


@SITES
def test_a_site_becomes_one_by_its_invitation_once_and_starts(entry: Entry) -> None:
    home, told = entry.folder / "home", {"FEDRELEASE_INVITATION": "/i", "FEDRELEASE_DATA": "/rows.csv"}
    code, said, _ = entry.run(**told, FEDRELEASE_FETCH="minilm four-sites", FEDRELEASE_LABEL="stars")
    begin = f"site init /i --folder {home} --data /rows.csv --text text --label stars --wait 600"
    assert (code, said) == (0, [begin, "fetch minilm four-sites", f"site start --folder {home}"])
    (home / "site.toml").touch()
    (home / "bases").mkdir()
    assert entry.run()[1] == [f"site start --folder {home}"]


@SITES
def test_a_site_fetches_the_servers_base_once_and_asks_again_until_the_run_has_begun(entry: Entry) -> None:
    home = entry.folder / "home"
    (home / "site.toml").touch()
    entry.stub(
        STUB + f'case "$1" in fetch) mkdir {home}/begun 2>/dev/null && exit 1; mkdir {home}/bases ;; esac\nexit 0\n'
    )
    entry.sleeps_not()
    ask, start = f"site fetch --folder {home} --quiet", f"site start --folder {home}"
    assert entry.run()[:2] == (0, [ask, ask, start])
    assert entry.run()[:2] == (0, [start])


@SITES
def test_a_site_that_gets_no_base_does_not_start(entry: Entry) -> None:
    (entry.folder / "home" / "site.toml").touch()
    entry.stub(STUB + "exit 1\n")
    entry.sleeps_not()
    code, said, _ = entry.run(FEDRELEASE_TRIES="3")
    assert (code, [one.split()[1] for one in said]) == (1, ["fetch"] * 3)


@SITES
def test_a_new_site_without_an_invitation_or_rows_is_refused(entry: Entry) -> None:
    assert "FEDRELEASE_INVITATION" in entry.run()[2]
    code, said, error = entry.run(FEDRELEASE_INVITATION="/i")
    assert (code != 0, said, "FEDRELEASE_DATA" in error) == (True, [], True)


@SITES
def test_a_site_that_was_refused_does_not_start(entry: Entry) -> None:
    entry.stub(STUB + "exit 1\n")
    code, said, _ = entry.run(FEDRELEASE_INVITATION="/i", FEDRELEASE_DATA="/d")
    assert (code, len(said)) == (1, 1)
