import socket
from pathlib import Path

import httpx
import pytest
from deployments import free_ports
from prometheus_client.parser import text_string_to_metric_families
from server_folders import answered, released, server_folder, site_folder, write_run

from fedrelease.deployment.logs import Log
from fedrelease.errors import EngineError, ExperimentError
from fedrelease.server.deployment.folder import SETTINGS, Server, open_server
from fedrelease.server.deployment.metrics import metrics_served
from fedrelease.server.events import event_facts

Samples = dict[tuple[str, str], float]


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """With the sites a and b and the logs of a run; metrics at a free port."""
    made = server_folder(tmp_path, metrics=f"127.0.0.1:{free_ports(1)}")
    for name in ("a", "b"):
        site_folder(made, tmp_path, name)
    write_run(made)
    return made


def samples(address: str) -> Samples:
    """Each sample by its name and its labels' values."""
    answer = httpx.get(address, trust_env=False)
    assert answer.status_code == 200
    families = text_string_to_metric_families(answer.text)
    return {(one.name, ",".join(one.labels.values())): one.value for family in families for one in family.samples}


def tell(server: Server, event: object) -> None:
    facts = dict(event_facts(event))  # type: ignore[arg-type]  # an event
    Log(server.log_folder / "events.log", process="serverapp")(str(facts.pop("event")), **facts)


def test_prometheus_reads_what_the_logs_tell(server: Server) -> None:
    with metrics_served(server) as address:
        assert address is not None
        found = samples(address)
    assert found["fedrelease_sites_admitted", ""] == 2
    assert found["fedrelease_releases_total", "released"] == 1
    assert found["fedrelease_releases_total", "held"] == 1
    assert found["fedrelease_payload_bytes_total", "up"] == 2000
    assert found["fedrelease_payload_bytes_total", "down"] == 6000
    assert found["fedrelease_answers_total", "refused,b"] == 1
    assert found["fedrelease_epsilon_worst_site", ""] == 4.5
    assert found["fedrelease_refusals_total", "403"] == 2
    assert found["fedrelease_refusals_total", "413"] == 1
    assert found["fedrelease_process_restarts_total", "superlink"] == 1
    assert found["fedrelease_process_restarts_total", "gateway"] == 0
    assert (found["fedrelease_round", ""], found["fedrelease_rounds_planned", ""]) == (2, 3)
    assert found["fedrelease_last_round_seconds", ""] == 20
    assert found["fedrelease_superlink_up", ""] == 0


def test_the_next_question_counts_what_happened_meanwhile_and_nothing_twice(server: Server) -> None:
    with metrics_served(server) as address:
        assert address is not None
        samples(address)
        tell(server, answered("0.1.2", "train", "b", epsilon=5.0))
        tell(server, released("0.1.2"))
        found = samples(address)
        assert samples(address) | _moving(found) == found
    assert found["fedrelease_releases_total", "released"] == 2
    assert found["fedrelease_epsilon_worst_site", ""] == 5.0
    assert found["fedrelease_answers_total", "answered,b"] == 1


def _moving(found: Samples) -> Samples:
    """What changes from one question to the next: the age of the newest release."""
    return {key: value for key, value in found.items() if "age" in key[0]}


def test_nothing_is_served_where_the_settings_name_no_address(tmp_path: Path) -> None:
    with metrics_served(server_folder(tmp_path)) as address:
        assert address is None


def test_the_address_is_free_again_when_the_server_ends(server: Server) -> None:
    for _ in range(2):
        with metrics_served(server) as address:
            assert address is not None


def test_an_address_in_use_is_an_error_with_a_way_out(server: Server) -> None:
    host, port = server.settings.metrics.split(":")
    refused = pytest.raises(EngineError, match="another port in server.toml")
    with socket.create_server((host, int(port))), refused, metrics_served(server):
        pass


def test_metrics_are_for_this_machine_only(server: Server) -> None:
    path = server.folder / SETTINGS
    path.write_text(path.read_text().replace('metrics = "127.0.0.1', 'metrics = "0.0.0.0'))
    with pytest.raises(ExperimentError, match="open to other machines"):
        open_server(server.folder)
