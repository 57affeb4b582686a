import re
from pathlib import Path

import pytest
from flwr.supercore import constant
from flwr.superlink.routers.fleet.router import router

from fedrelease.server.deployment.folder import Settings
from fedrelease.server.deployment.gateway import ENROL_BYTES, OF_SITES, SELF_REGISTRATION, SITES_PATH

TEXT = (Path(__file__).parents[2] / "deploy" / "nginx.conf").read_text(encoding="utf-8")
CONFIGURATION = "\n".join(line.partition("    #")[0] for line in TEXT.splitlines() if not line.lstrip().startswith("#"))
LOCATIONS = {
    (kind.strip(), path.strip('"')): body
    for kind, path, body in re.findall(r"location (~ |= |)(\S+) \{(.*?)\n    \}", CONFIGURATION, re.DOTALL)
}
FLOWERS = sorted(route.path for route in router.routes)
GOOD = [path for path in FLOWERS if "register-node" not in path]
BAD = [
    "/v1/fleet/register-node",
    "/v1/fleet/unregister-node",
    "/v1/fleet/",
    "/v1/fleet",
    "/v1/fleet/a/b",
    "/v1/fleet/Pull-messages",
    "/v1/fleet/pull_messages",
    "/v1/fleet/pull-messages/",
    "/v1/fleet/pull-messages\n",
    "/v1/fleet/pull-messages\r\nHost: x",
    "/v1/fleet/../control/start-run",
    f"/v1/fleet/{'a' * 61}",
    "/x/v1/fleet/pull-messages",
    "/v1/fleets/pull-messages",
    "/v1/control/list-runs",
    "/v1/control/start-run",
    "/v1/runtime/acquire-task",
    "/docs",
    "/openapi.json",
    "/",
]


def target(path: str) -> str | None:
    """Where nginx sends a path: exact places first, then the first expression that matches, then the rest."""
    body = LOCATIONS.get(("=", path))
    for (kind, expression), inner in LOCATIONS.items():
        if body is None and kind == "~" and re.search(expression.replace(r"\z", r"\Z"), path):
            body = inner
    found = re.search(r"proxy_pass https://(\w+)", body if body is not None else LOCATIONS["", "/"])
    return found[1] if found else None


def passes_gateway(path: str) -> bool:
    return SITES_PATH.fullmatch(path) is not None and SELF_REGISTRATION.fullmatch(path) is None


def directive(name: str) -> list[str]:
    return re.findall(rf"^\s*{name} ([^;]+);", CONFIGURATION, re.MULTILINE)


def test_there_are_six_places_and_what_fits_none_is_forbidden() -> None:
    assert [kind for kind, _ in LOCATIONS] == ["~", "=", "=", "=", "=", ""]
    assert LOCATIONS["", "/"].strip() == "return 403;"


@pytest.mark.parametrize("path", GOOD)
def test_what_flowers_supernode_asks_for_passes(path: str) -> None:
    assert passes_gateway(path)
    assert target(path) == "fedrelease_gateway"


@pytest.mark.parametrize("path", [*BAD, *sorted(set(FLOWERS) - set(GOOD))])
def test_what_the_gateway_refuses_nginx_refuses_too(path: str) -> None:
    assert not passes_gateway(path)
    assert target(path) is None


@pytest.mark.parametrize("path", ["/v1/fleet/a", f"/v1/fleet/{'a' * 60}", "/v1/fleet/-", "/v1/fleet/register-nodes"])
def test_at_the_borders_both_let_the_same_through(path: str) -> None:
    assert passes_gateway(path)
    assert target(path) == "fedrelease_gateway"


@pytest.mark.parametrize("path", ["/health", "/enrol", "/renew", "/plan"])
def test_admission_and_health_go_to_the_gateway(path: str) -> None:
    assert target(path) == "fedrelease_gateway"


def test_upstream_gets_the_path_that_was_matched_and_not_the_requests_own_spelling() -> None:
    passed = [body for (kind, _), body in LOCATIONS.items() if kind == "~"]
    assert ["https://fedrelease_gateway$uri" in body for body in passed] == [True]
    assert "$request_uri" not in CONFIGURATION


def test_messages_and_enrolments_are_posted_and_health_is_asked_for() -> None:
    methods = [re.findall(r"limit_except (\w+) \{ deny all; \}", body) for body in LOCATIONS.values()]
    assert methods == [["POST"], ["GET"], ["POST"], ["POST"], ["POST"], []]


def test_the_headers_of_executors_are_dropped_exactly_as_the_gateway_drops_them() -> None:
    blanked = {name for name, value in re.findall(r'proxy_set_header (\S+) (""|\S+);', CONFIGURATION) if value == '""'}
    flowers = {value for name, value in vars(constant).items() if name.endswith("_HEADER") and isinstance(value, str)}
    refused = {name for name in flowers if name.startswith("flwr-") and not OF_SITES.fullmatch(name)}
    assert len(refused) == 5
    assert {name for name in blanked if name.startswith("flwr-")} == refused


def test_ports_and_sizes_are_those_of_a_new_server() -> None:
    settings = Settings()
    servers = re.findall(r"server 127\.0\.0\.1:(\d+);", CONFIGURATION)
    assert servers == [settings.listen.rpartition(":")[2]]  # never the SuperLink: the gateway checks more than paths
    assert directive("client_max_body_size") == [f"{settings.message_mb}m", *[f"{ENROL_BYTES >> 10}k"] * 3]
    assert [one.split()[0].rpartition(":")[2] for one in directive("listen")] == [settings.listen.rpartition(":")[2]]


def test_nginx_speaks_tls_to_sites_and_checks_whom_it_speaks_to_behind() -> None:
    assert all(one.endswith(" ssl") for one in directive("listen"))
    assert directive("proxy_ssl_verify") == ["on"]
    assert directive("ssl_protocols") == ["TLSv1.2 TLSv1.3"]
    assert re.findall(r"proxy_pass http://", CONFIGURATION) == []
    assert CONFIGURATION.count("{") == CONFIGURATION.count("}")
