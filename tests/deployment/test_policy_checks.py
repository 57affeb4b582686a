"""``site check`` before the first query: what the policy says, what the server is about to ask, which rule would refuse it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from deployments import free_ports
from server_folders import running_gateway, server_folder, site_folder
from tiny import experiment_text, make_rows

from fedrelease.cli import run
from fedrelease.client.deployment.check import Check
from fedrelease.client.deployment.enrol import connect, site_key
from fedrelease.client.deployment.folder import SiteFolder
from fedrelease.client.deployment.policy_checks import AskedPlan, check_limits, check_policy
from fedrelease.client.deployment.preflight import preflight
from fedrelease.client.deployment.trial import Trial
from fedrelease.client.policy import Policy
from fedrelease.deployment.question import Question, new_nonce, signed_question
from fedrelease.experiment import Experiment
from fedrelease.experiment_document import to_document
from fedrelease.experiment_file import load_experiment
from fedrelease.server.deployment.folder import Server
from fedrelease.server.deployment.planned import write_planned
from fedrelease.server.deployment.register import dismiss

NOW = datetime.now(UTC)
TRIAL = Trial(step_s=0.5, steps=20, private=True, state_bytes=2_000_000)
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = server_folder(tmp_path_factory.mktemp("running"), port=free_ports(1))
    with running_gateway(made):
        yield made


@pytest.fixture
def site(running: Server, tmp_path: Path, tiny_base: Path) -> Iterator[SiteFolder]:
    rows = make_rows(tmp_path / "rows.csv", sites=("a",), rows=120)
    (tmp_path / "experiment.toml").write_text(experiment_text(tiny_base, rows))
    made = site_folder(running, tmp_path, "a", source=str(rows), base=str(tiny_base))
    text = (made.folder / "site.toml").read_text()
    (made.folder / "site.toml").write_text(f'base = "{tiny_base}"\n{text}')
    yield made
    (running.folder / "planned.json").unlink(missing_ok=True)
    (running.folder / "sites" / "a.json").unlink(missing_ok=True)


def plans(server: Server, folder: Path, base: Path, *overrides: str) -> Experiment:
    """Let the server be about to ask for the experiment in a folder."""
    experiment = load_experiment(folder / "experiment.toml", list(overrides))
    write_planned(server, experiment=json.dumps(to_document(experiment)), base=base)
    return experiment


def asked(site: SiteFolder) -> Check:
    (found,) = AskedPlan(site, now=datetime.now(UTC), patience_s=5).checks()
    return found


def everything(site: SiteFolder, experiment: Experiment, *, named: bool) -> dict[str, Check]:
    checks = preflight(site, experiment, named=named, now=datetime.now(UTC), patience_s=5)
    return {one.name: one for one in checks}


def with_policy(site: SiteFolder, **rules: object) -> SiteFolder:
    policy = replace(site.settings.policy, **rules)  # type: ignore[arg-type]
    return replace(site, settings=replace(site.settings, policy=policy))


def test_what_the_server_asks_within_the_policy_is_said_in_words(
    running: Server, site: SiteFolder, tmp_path: Path, tiny_base: Path
) -> None:
    plans(running, tmp_path, tiny_base, "phase.0.rounds=3", "privacy.epsilon=4", "privacy.metrics=exact")
    found = asked(site)
    assert found.status == "pass"
    assert found.found == "what the server asks keeps to the policy: 3 rounds, epsilon 4 in all, metrics noised"


@pytest.mark.parametrize(
    ("rules", "override", "reason"),
    [
        ({"epsilon": 2.0}, "privacy.epsilon=4", "policy.epsilon: at most 2, asked 4"),
        ({}, "privacy.unit=none", "policy.unit: at least example, asked none"),
        ({"rank": 1}, "model.adapter.rank=2", "policy.rank: at most 1, asked 2"),
        ({"bases": ("f" * 64,)}, "privacy.epsilon=4", "policy.bases: only one of those named (ffffffffffffffff)"),
        ({"directives": ()}, "phase.0.strategy=scaffold", "policy.directives: none, asked variate"),
    ],
)
def test_what_the_server_asks_beyond_the_policy_fails_before_the_first_query_and_names_the_rule(
    running: Server,
    site: SiteFolder,
    tmp_path: Path,
    tiny_base: Path,
    rules: dict[str, object],
    override: str,
    reason: str,
) -> None:
    plans(running, tmp_path, tiny_base, override)
    found = asked(with_policy(site, **rules))
    assert found.status == "fail"
    assert reason in found.found and "ask the operator" in found.hint


def test_without_an_experiment_the_servers_own_decides_about_labels_base_and_steps(
    running: Server, site: SiteFolder, tmp_path: Path, tiny_base: Path
) -> None:
    plans(running, tmp_path, tiny_base)
    found = everything(site, Experiment(), named=False)
    wanted = ("policy", "asked", "ledger", "base", "data", "memory", "disk", "training", "limits")
    assert {name: found[name].status for name in wanted} == dict.fromkeys(wanted, "pass")
    assert "no experiment was given" not in found["base"].found
    assert "experiment" not in found
    assert not (site.folder / "base.digest").exists(), "a check keeps to no base yet"


def test_a_base_that_is_not_the_servers_fails_before_the_first_round(
    running: Server, site: SiteFolder, tmp_path: Path, tiny_base: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in tiny_base.iterdir():
        if path.is_file():
            (other / path.name).write_bytes(path.read_bytes())
    (other / "tokenizer_config.json").write_text('{"model_max_length": 64}')
    plans(running, tmp_path, other)
    found = everything(site, Experiment(), named=False)["base"]
    assert (found.status, found.found.partition(":")[0]) == ("fail", "this site's base is not the server's")
    assert "fedrelease site fetch" in found.hint


def test_a_folder_that_the_server_names_as_base_is_not_opened_here(
    running: Server, site: SiteFolder, tmp_path: Path, tiny_base: Path
) -> None:
    plans(running, tmp_path, tiny_base)
    without = replace(site, settings=replace(site.settings, base=""))
    found = everything(without, Experiment(), named=False)["base"]
    assert found.status == "fail" and "asked for another" in found.found


def test_an_experiment_that_was_named_is_compared_as_well(site: SiteFolder, tmp_path: Path, capsys: Capture) -> None:
    path = str(tmp_path / "experiment.toml")
    arguments = ["site", "check", path, "--set", "privacy.epsilon=9", "--folder", str(site.folder), "--json"]
    assert run(arguments) == 1
    checks = {one["name"]: one for one in json.loads(capsys.readouterr().out)["checks"]}
    assert "policy.epsilon: at most 8, asked 9" in checks["experiment"]["found"]
    assert (checks["policy"]["status"], checks["asked"]["status"]) == ("pass", "warn")


def test_a_server_that_is_away_or_has_begun_nothing_is_a_warning(site: SiteFolder) -> None:
    assert (asked(site).status, asked(site).found) == ("warn", "the server has begun no run")
    away = replace(site, settings=replace(site.settings, server=f"127.0.0.1:{free_ports(1)}"))
    assert (asked(away).status, asked(away).found) == ("warn", "the server could not be asked")


def test_a_site_that_was_dismissed_learns_it_from_the_check(running: Server, site: SiteFolder) -> None:
    dismiss(running, "a")
    found = asked(site)
    assert found.status == "fail" and "no admitted site has signed this" in found.found


def test_the_plan_is_told_to_nobody_else(running: Server, site: SiteFolder, tmp_path: Path, tiny_base: Path) -> None:
    plans(running, tmp_path, tiny_base)
    moment = datetime.now(UTC).isoformat()
    certificate = site.certificate_file.read_text()
    question = Question(what="renew", site="a", certificate=certificate, time=moment, nonce=new_nonce())
    with connect(site) as client:
        answers = [
            client.post("/plan", content=body) for body in (b"{}", signed_question(site_key(site), question), b"")
        ]
        assert client.get("/plan").status_code == 403
    assert [answer.status_code for answer in answers] == [403] * 3
    assert not any("experiment" in answer.text for answer in answers)


@pytest.mark.parametrize(
    ("settings", "status", "words"),
    [
        ({}, "pass", "private training only, epsilon 8 in all at most, metrics with noise"),
        ({"policy": Policy(unit="none")}, "warn", "training WITHOUT privacy too"),
        ({"noise": "seeded"}, "warn", "private training only"),
    ],
)
def test_the_policy_is_said_in_words_and_warned_of_where_it_protects_nobody(
    site: SiteFolder, settings: dict[str, object], status: str, words: str
) -> None:
    found = check_policy(replace(site, settings=replace(site.settings, **settings)))  # type: ignore[arg-type]
    assert found.status == status and words in found.found


@pytest.mark.parametrize(
    ("policy", "overrides", "status", "rule"),
    [
        (Policy(), (), "pass", ""),
        (Policy(steps=20), (), "pass", ""),
        (Policy(steps=19), (), "fail", "policy.steps: at most 19 a round"),
        (Policy(megabytes=2.0), (), "pass", ""),
        (Policy(megabytes=1.9), (), "fail", "policy.megabytes: at most 1.9 a message"),
        (Policy(seconds=9.9), (), "warn", "policy.seconds: a round is cut off after 9.9"),
        (Policy(), ("federation.deadline_s=9.9",), "warn", "federation.deadline_s: the server waits for 9.9 s"),
    ],
)
def test_a_round_that_was_tried_is_compared_with_the_limits(
    policy: Policy, overrides: tuple[str, ...], status: str, rule: str
) -> None:
    """20 steps of 0.5 s are 10 s."""
    found = check_limits(policy, load_experiment(None, list(overrides), text=""), TRIAL)
    assert found.status == status and found.rule.startswith(rule)
    assert "20 steps and about 10 s here, its state 2.0 MB" in found.found
