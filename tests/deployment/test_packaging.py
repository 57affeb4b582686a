import configparser
import csv
import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import commands, unknown
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, HEARTBEAT_PATIENCE

from fedrelease import __version__
from fedrelease.deployment.processes import STOP_S
from fedrelease.experiment_file import load_experiment
from fedrelease.server.deployment.folder import Server, Settings
from fedrelease.server.deployment.start import server_programs

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())
TEXTS = [ROOT / "docs" / "operate.md", *sorted(path for path in DEPLOY.rglob("*") if path.is_file())]
PORTS = [int(address.rpartition(":")[2]) for address in (Settings().listen, Settings().releases)]


def calls(path: Path) -> list[list[str]]:
    return commands(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", [path for path in TEXTS if calls(path)], ids=lambda path: path.name)
def test_every_verb_and_flag_that_is_called_exists(path: Path) -> None:
    assert [wrong for words in calls(path) for wrong in unknown(words)] == []


def test_the_units_entry_points_and_notes_do_call_our_verbs() -> None:
    found = {path.name for path in TEXTS if calls(path)}
    scripts = {"server-entry.sh", "site-entry.sh", "NOTES.txt", "operate.md"}
    assert found >= {*scripts, *(unit.name for unit in UNITS)}


def test_a_flag_or_a_verb_that_does_not_exist_would_be_found() -> None:
    text = "ExecStart=/opt/fedrelease/bin/fedrelease server start X --folder \\\n  Y --no-such\nfedrelease site stand"
    assert [unknown(words) for words in commands(text)] == [["--no-such"], ["site stand"]]


# ---- systemd


def unit(path: Path) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]  # names of systemd have capitals
    parsed.read(path, encoding="utf-8")
    return parsed


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_is_hardened_and_stops_in_order(path: Path) -> None:
    service = unit(path)["Service"]
    expected = {
        "Type": "notify",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "Restart": "on-failure",
        "KillMode": "mixed",
        "UMask": "0077",
        "CapabilityBoundingSet": "",
    }
    assert {key: service[key] for key in expected} == expected
    assert service["User"] not in ("root", "nobody")
    processes = server_programs(Server(folder=Path("server"), settings=Settings()))
    assert float(service["TimeoutStopSec"]) > len(processes) * STOP_S  # one after the other


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_writes_only_where_it_may(path: Path) -> None:
    service = unit(path)["Service"]
    folder = service["ExecStart"].split("--folder ")[1].split()[0]
    assert service["WorkingDirectory"].startswith(service["ReadWritePaths"])
    assert folder.startswith(f"{service['ReadWritePaths']}/")
    settings = dict(re.findall(r"^Environment=(\w+)=(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert settings["FEDRELEASE_CACHE"].startswith(f"{service['ReadWritePaths']}/")
    assert set(re.findall(r"\$\{(\w+)\}", service["ExecStart"])) <= settings.keys()


def test_a_site_comes_back_only_when_the_superlink_has_given_its_node_up() -> None:
    site = unit(DEPLOY / "systemd" / "fedrelease-site@.service")["Service"]
    window = HEARTBEAT_DEFAULT_INTERVAL * HEARTBEAT_PATIENCE
    assert float(site["RestartSec"]) > window


# ---- Docker


def instructions() -> Iterator[tuple[str, str]]:
    text = (DEPLOY / "docker" / "Dockerfile").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    yield from ((line.split()[0], " ".join(line.split()[1:])) for line in lines.splitlines() if line.strip())


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage, by its name."""
    found: dict[str, list[tuple[str, str]]] = {}
    for word, rest in instructions():
        if word == "FROM":
            found[rest.split(" AS ")[1]] = []
        elif found:
            found[list(found)[-1]].append((word, rest))
    return found


def test_the_base_image_is_pinned_by_digest_and_nothing_is_the_latest() -> None:
    base = [rest for word, rest in instructions() if word == "ARG"]
    assert re.fullmatch(r"PYTHON=python:3\.\d+-slim-\w+@sha256:[0-9a-f]{64}", base[0])
    sources = {rest.split(" AS ")[0] for word, rest in instructions() if word == "FROM"}
    assert sources == {"${PYTHON}", "runtime"}
    assert "latest" not in " ".join(rest for _, rest in instructions())


def test_everything_is_installed_by_constraints_and_torch_first_for_the_processor() -> None:
    installs = [
        rest
        for _, rest in instructions()
        for rest in rest.split("&&")
        if "pip install" in rest and "apt-get" not in rest
    ]
    assert all(" -c constraints.txt" in one for one in installs)
    assert installs[0].endswith('${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch')
    assert len(installs) == 2


@pytest.mark.parametrize("target", ["server", "site"])
def test_an_image_ends_without_root_and_in_the_exec_form(target: str) -> None:
    words = dict(stages()[target])
    assert words["USER"] == "10001:10001"
    assert json.loads(words["ENTRYPOINT"])[0] == "tini"
    assert f"deploy/docker/{target}-entry.sh" in words["COPY"]


@pytest.mark.parametrize("target", ["server", "site"])
def test_a_health_check_runs_a_module_of_ours_on_the_folder_of_the_entry_point(target: str) -> None:
    check = dict(stages()[target])["HEALTHCHECK"]
    module, folder = json.loads(check[check.index("[") :])[3:]
    assert find_spec(module) is not None
    assert f"${{FEDRELEASE_FOLDER:-{folder}}}" in (DEPLOY / "docker" / f"{target}-entry.sh").read_text()


def test_the_server_shows_the_ports_of_a_new_server_and_a_site_none() -> None:
    assert dict(stages()["server"])["EXPOSE"].split() == [str(port) for port in PORTS]
    assert "EXPOSE" not in dict(stages()["site"])


def test_everything_that_is_copied_exists_and_is_let_through_to_the_build() -> None:
    passed = [
        line.removeprefix("!").removesuffix("/*.sh")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    copied = [
        source
        for word, rest in instructions()
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
        if not source.startswith("--")
    ]
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert [source for source in copied if not source.startswith(tuple(passed))] == []
    assert [name for name in passed if not (ROOT / name).exists()] == []


# ---- compose

COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SITE_NAMES = [name for name in SERVICES if name not in ("prepare", "server")]


def test_the_try_out_has_a_server_and_three_sites_that_it_invites() -> None:
    assert len(SITE_NAMES) == 3
    assert SERVICES["prepare"]["environment"]["FEDRELEASE_SITES"].split() == SITE_NAMES
    assert SERVICES["prepare"]["command"] == ["prepare"]
    assert SERVICES["prepare"]["environment"]["FEDRELEASE_ADDRESSES"] in SERVICES  # the name in the network


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_built_mounts_and_waits_for_what_there_is(name: str) -> None:
    one = SERVICES[name]
    assert one["build"]["target"] in stages()
    assert (DEPLOY / one["build"]["context"] / one["build"]["dockerfile"]).is_file()
    assert one["image"] == f"fedrelease-{one['build']['target']}:{__version__}"
    sources = [mount.split(":")[0] for mount in one["volumes"]]
    assert [at for at in sources if at not in COMPOSE["volumes"] and not (DEPLOY / at).is_file()] == []
    assert set(one.get("depends_on", {})) <= SERVICES.keys()
    assert set(one["networks"]) <= COMPOSE["networks"].keys()
    assert "ports" not in one


@pytest.mark.parametrize("name", SERVICES)
def test_every_variable_of_a_service_is_read_by_its_entry_point(name: str) -> None:
    script = (DEPLOY / "docker" / f"{SERVICES[name]['build']['target']}-entry.sh").read_text()
    assert [key for key in SERVICES[name]["environment"] if f"${{{key}" not in script] == []


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_rights_that_it_does_not_need(name: str) -> None:
    one = SERVICES[name]
    assert (one["cap_drop"], one["read_only"]) == (["ALL"], True)
    assert one["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", SITE_NAMES)
def test_a_site_of_the_try_out_reads_its_own_rows_and_may_not_write_invitations(name: str) -> None:
    one = SERVICES[name]
    assert one["environment"]["FEDRELEASE_INVITATION"] == f"/invitations/{name}.invitation"
    assert "invitations:/invitations:ro" in one["volumes"]
    assert f"./try-out/rows/{name}.csv:{one['environment']['FEDRELEASE_DATA']}:ro" in one["volumes"]


def test_the_experiment_and_the_rows_of_the_try_out_fit_together() -> None:
    experiment = load_experiment(DEPLOY / "try-out" / "experiment.toml", [])
    for name in SITE_NAMES:
        with (DEPLOY / "try-out" / "rows" / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert {row["label"] for row in rows} == set(experiment.model.labels)
        assert len(rows) >= 100
        assert all(row["text"] for row in rows)
