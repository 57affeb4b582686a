"""An attacker at the one address that is open: every attempt is refused and noted, and honest sites do not notice."""

import json
import pickle
import re
import select
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest
from attacked import MEGABYTE, PATIENCE_S, Attacked, attacked, everything, signed
from cryptography.hazmat.primitives.serialization import Encoding
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import Message, Metadata
from flwr.proto.node_pb2 import Node
from flwr.supercore.protobuf import translation

from fedrelease.client.deployment.enrol import enrol, site_key
from fedrelease.deployment.certificates import new_authority, new_key, signing_request
from fedrelease.errors import IdentityError
from fedrelease.server.deployment.register import admitted, dismiss

CONTROL = sorted(path for _, path in translation.PROTOBUF_REQUEST_TYPES if path.startswith("/v1/control/"))
RUNTIME = sorted(path for _, path in translation.PROTOBUF_REQUEST_TYPES if path.startswith("/v1/runtime/"))
LIST_NODES = "/v1/control/list-nodes"


class Payload:
    """What a pickle would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    with attacked(tmp_path_factory.mktemp("attacked")) as made:
        yield made


@pytest.fixture(autouse=True)
def undisturbed(server: Attacked) -> Iterator[None]:
    """After each attack the SuperLink goes on answering honest sites through the same gateway."""
    yield
    assert server.serves()


def heartbeat(server: Attacked, site: str = "amazon") -> bytes:
    body = SendNodeHeartbeatRequest(node=Node(node_id=server.nodes[site]), heartbeat_interval=30.0)
    return bytes(body.SerializeToString())


def refusals(server: Attacked, before: int) -> list[tuple[object, object]]:
    """Status and reason of what was refused since there were so many lines."""
    return [(line["status"], line["why"]) for line in server.lines()[before:] if line["event"] == "refused"]


def status(answer: bytes) -> int:
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
    return int(found[1]) if found else 0


# Who is not let in


def test_a_caller_without_a_key_is_refused(server: Attacked) -> None:
    before = len(server.lines())
    assert server.post("/v1/fleet/pull-messages", heartbeat(server)).status_code == 401
    assert refusals(server, before) == [(401, "not signed with the key of an admitted site")]


def test_a_key_that_nobody_admitted_is_refused(server: Attacked) -> None:
    before = len(server.lines())
    assert server.fleet("send-node-heartbeat", heartbeat(server), key=new_key()).status_code == 401
    assert refusals(server, before) == [(401, "not signed with the key of an admitted site")]


def test_a_sites_public_key_without_its_signature_is_refused(server: Attacked) -> None:
    """Public keys are no secret."""
    mixed = {**signed(new_key()), "flwr-public-key": signed(site_key(server.amazon))["flwr-public-key"]}
    assert server.post("/v1/fleet/send-node-heartbeat", heartbeat(server), headers=mixed).status_code == 401


@pytest.mark.parametrize(("ago_s", "word"), [(600, "behind"), (-60, "ahead of")])
def test_a_signature_of_another_time_is_refused_and_both_sides_read_that_a_clock_is_off(
    server: Attacked, ago_s: int, word: str
) -> None:
    before, old = len(server.lines()), signed(site_key(server.amazon), ago=timedelta(seconds=ago_s))
    answer = server.post("/v1/fleet/send-node-heartbeat", heartbeat(server), headers=old)
    ((status, why),) = refusals(server, before)
    assert (answer.status_code, status, answer.text) == (401, 401, why)
    assert f"s {word} this server's clock" in why and "at most 5 s ahead or 305 s behind" in why


def test_a_site_cannot_act_as_another_ones_node(server: Attacked) -> None:
    answer = server.fleet("send-node-heartbeat", heartbeat(server, "movie"), key=site_key(server.amazon))
    assert answer.status_code == 401


def test_a_site_cannot_answer_under_another_ones_name(server: Attacked) -> None:
    before = len(server.lines())
    forged = Message(metadata=Metadata(src_node_id=server.nodes["movie"], reply_to_message_id="m"))
    body = PushMessagesRequest(node=Node(node_id=server.nodes["amazon"]), messages_list=[forged])
    assert server.fleet("push-messages", body.SerializeToString()).status_code == 403
    assert refusals(server, before) == [(403, "a reply in the name of another site")]


def test_a_dismissed_site_is_refused_from_the_next_request_on(server: Attacked, tmp_path: Path) -> None:
    shop = enrol(server.invited("shop"), tmp_path / "shop")
    known = server.fleet("send-node-heartbeat", heartbeat(server), key=site_key(shop))
    assert known.text != "not signed with the key of an admitted site"
    dismiss(server.server, "shop")
    gone = server.fleet("send-node-heartbeat", heartbeat(server), key=site_key(shop))
    assert (gone.status_code, gone.text) == (401, "not signed with the key of an admitted site")


@pytest.mark.parametrize("verb", ["register-node", "unregister-node"])
def test_flowers_own_way_in_for_nodes_is_shut(server: Attacked, verb: str) -> None:
    assert server.fleet(verb, b"").status_code == 403


# Enrolling


def enrolment(server: Attacked, site: str, token: str) -> httpx.Response:
    asked = {"site": site, "token": token, "request": signing_request("x", new_key()).decode()}
    with server.client() as client:
        return client.post("/enrol", json=asked)


def test_a_token_that_was_used_gives_no_second_key(server: Attacked, tmp_path: Path) -> None:
    invitation = server.invited("once")
    enrol(invitation, tmp_path / "first")
    key, before = admitted(server.server)["once"].key, len(server.lines())
    with pytest.raises(IdentityError, match="this invitation was used already"):
        enrol(invitation, tmp_path / "second")
    assert admitted(server.server)["once"].key == key
    assert refusals(server, before) == [(403, "this invitation was used already: once")]


def test_the_same_enrolment_again_gives_the_same_certificate_and_no_second_identity(server: Attacked) -> None:
    invitation, request = server.invited("twice"), signing_request("twice", new_key()).decode()
    asked = {"site": "twice", "token": invitation.token, "request": request}
    with server.client() as client:
        answers = [client.post("/enrol", json=asked).json()["certificate"] for _ in range(2)]
    assert answers[0] == answers[1] == admitted(server.server)["twice"].certificate


def test_an_invitation_that_expired_is_refused(server: Attacked) -> None:
    invitation = server.invited("late", days=-1)
    answer = enrolment(server, "late", invitation.token)
    assert (answer.status_code, answer.json()["what"]) == (403, "this invitation has expired")
    assert "late" not in admitted(server.server)


@pytest.mark.parametrize(
    "name",
    ["../server", "../../etc/passwd", "..%2fserver", "amazon/../movie", "/etc/passwd", "a\x00b", "AMAZON", "", "ä"],
)
def test_a_name_that_is_a_path_reaches_no_file(server: Attacked, name: str) -> None:
    answer = enrolment(server, name, "x")
    assert (answer.status_code, answer.json()["what"]) == (403, "no such invitation is open")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b'{"site": "amazon"}',
        b'{"site": "\\ud800", "token": "\\udfff", "request": "\\ud800"}',
        b"[" * 5000,
        b'{"site": ' + b"9" * 5000 + b"}",
        b"\xff\xfe",
    ],
    ids=["nothing", "half", "list", "text", "keys", "surrogates", "deep", "digits", "bytes"],
)
def test_malformed_json_is_refused_without_an_error_of_the_gateway(server: Attacked, body: bytes) -> None:
    before = len(server.lines())
    assert server.post("/enrol", body).status_code == 400
    assert refusals(server, before) == [(400, "an enrolment has site, token and request")]


def test_a_refused_token_is_in_no_log(server: Attacked) -> None:
    enrolment(server, "amazon", "a-secret-that-was-guessed")
    logs = "".join(path.read_text(errors="replace") for path in server.server.log_folder.iterdir())
    assert "a-secret-that-was-guessed" not in logs and server.invited("quiet").token not in logs


# What TLS refuses


def test_a_site_refuses_a_server_of_another_authority(server: Attacked, tmp_path: Path) -> None:
    other = new_authority("other", now=datetime.now(UTC)).certificate
    wrong = replace(server.invited("wrong"), authority=other.public_bytes(Encoding.PEM).decode())
    with pytest.raises(IdentityError, match="CERTIFICATE_VERIFY_FAILED"):
        enrol(wrong, tmp_path / "wrong")
    assert "wrong" not in admitted(server.server)


def test_plain_http_gets_no_answer(server: Attacked) -> None:
    with socket.create_connection(server.address, timeout=10) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP/" not in plain.recv(1000)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_an_old_tls_is_refused(server: Attacked, version: ssl.TLSVersion) -> None:
    trust = server.trust()
    trust.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        trust.minimum_version = version
    with pytest.warns(DeprecationWarning):
        trust.maximum_version = version
    with socket.create_connection(server.address, timeout=10) as plain, pytest.raises((ssl.SSLError, OSError)):
        trust.wrap_socket(plain, server_hostname="127.0.0.1")


# What does not pass


@pytest.mark.parametrize("paths", [CONTROL, RUNTIME], ids=["control", "runtime"])
def test_nothing_but_the_paths_of_sites_passes_even_for_an_admitted_site(server: Attacked, paths: list[str]) -> None:
    headers, before = signed(site_key(server.amazon)), len(server.lines())
    with server.client() as client:
        answers = [client.post(path, headers=headers).status_code for path in (*paths, "/docs", "/openapi.json")]
    assert set(answers) == {403} and len(paths) > 10
    assert len(refusals(server, before)) == len(answers)


@pytest.mark.parametrize(
    "target",
    [
        "/v1%2fcontrol%2flist-nodes",
        "/v1/fleet/..%2fcontrol%2flist-nodes",
        "/v1/fleet/../control/list-nodes",
        "/v1/fleet/%2e%2e/control/list-nodes",
        "/v1/fleet//../../control/list-nodes",
        "//v1/control/list-nodes",
        "/v1//control/list-nodes",
        "/./v1/control/list-nodes",
        "/v1/fleet/./../control/list-nodes",
        "/V1/CONTROL/LIST-NODES",
        "/v1/Fleet/pull-messages",
        "/v1/control/list-nodes?/v1/fleet/pull-messages",
        "/v1/fleet/pull-messages/../../control/list-nodes",
        "/v1/fleet/pull-messages%00",
        "/v1/fleet/pull-messages;/v1/control/list-nodes",
        "/v1/fleet\\..\\control\\list-nodes",
        "https://127.0.0.1/v1/control/list-nodes",
        "http://127.0.0.1:8443/v1/fleet/pull-messages",
        "*",
    ],
)
def test_no_spelling_of_a_path_reaches_the_control_api(server: Attacked, target: str) -> None:
    before = len(server.lines())
    lines = [
        f"POST {target} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Length: 0",
        *_lines(signed(site_key(server.amazon))),
    ]
    answer = server.raw("\r\n".join([*lines, "", ""]).encode())
    assert status(answer) == 403
    assert refusals(server, before) == [(403, "no path of sites")]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "CONNECT"])
def test_sites_post_and_nothing_else_passes(server: Attacked, method: str) -> None:
    request = f"{method} /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert status(server.raw(request.encode())) == 403


def _lines(headers: dict[str, str]) -> list[str]:
    return [f"{name}: {value}" for name, value in headers.items()]


def test_two_lengths_of_one_body_are_refused_and_what_follows_is_never_read(server: Attacked) -> None:
    before = len(server.lines())
    inner = f"POST {LIST_NODES} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    head = ["POST /v1/fleet/pull-messages HTTP/1.1", "Host: x", *_lines(signed(site_key(server.amazon)))]
    head += [f"Content-Length: {len(inner) + 5}", "Transfer-Encoding: chunked", "", ""]
    answer = server.raw(("\r\n".join(head) + "0\r\n\r\n" + inner).encode())
    assert status(answer) == 400 and answer.count(b"HTTP/1.1") == 1
    assert refusals(server, before) == [(400, "two lengths of one body")]


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: -1"],
        ["Content-Length: +5"],
        ["Content-Length: 0x10"],
        ["Content-Length: " + "9" * 5000],
        ["Transfer-Encoding: gzip, chunked"],
        ["Transfer-Encoding : chunked"],
        ["X: a\x00b", "Content-Length: 0"],
        ["X: " + "a" * 100_000, "Content-Length: 0"],
    ],
)
def test_headers_that_can_be_read_in_two_ways_are_not_read(server: Attacked, lines: list[str]) -> None:
    own = ["Host: x", "Connection: close", *_lines(signed(site_key(server.amazon)))]
    head = ["POST /v1/fleet/pull-messages HTTP/1.1", *own, *lines]
    answer = server.raw("\r\n".join([*head, "", ""]).encode())
    assert status(answer) in (400, 413, 431, 501)


def test_a_header_cannot_bring_another_one_or_pass_for_an_executors_proof(server: Attacked) -> None:
    """The log stays one line for each refusal, whatever stands in the path."""
    before = len(server.lines())
    target = "/v1/control/x%0d%0aHTTP/1.1%20200\x1b[2J"
    server.raw(f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
    request = "POST /v1/runtime/acquire-task HTTP/1.1\r\nHost: x\r\nflwr-superexec-auth: x\r\nContent-Length: 0\r\n\r\n"
    assert status(server.raw(request.encode())) == 403
    text = (server.server.log_folder / "gateway.log").read_text()
    assert "\x1b" not in text and all(json.loads(line) for line in text.splitlines()[before:])


# Bodies


@pytest.mark.parametrize(
    ("path", "why"), [("/v1/fleet/push-object", f"more than {MEGABYTE} bytes"), ("/enrol", "more than 16384 bytes")]
)
def test_a_message_that_says_it_has_two_gigabytes_is_refused_before_it_comes(
    server: Attacked, path: str, why: str
) -> None:
    before = len(server.lines())
    head = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {2 << 30}", *_lines(signed(site_key(server.amazon)))]
    answer = server.raw("\r\n".join([*head, "", ""]).encode())
    assert status(answer) == 413
    assert refusals(server, before) == [(413, why)]


def test_a_message_that_goes_on_for_ever_is_cut_off_and_takes_no_memory(server: Attacked) -> None:
    """In chunks: nothing says beforehand how much will come."""
    head = ["POST /v1/fleet/push-object HTTP/1.1", "Host: x", "Transfer-Encoding: chunked"]
    request = "\r\n".join([*head, *_lines(signed(site_key(server.amazon))), "", ""]).encode()
    chunk = b"%x\r\n" % MEGABYTE + bytes(MEGABYTE) + b"\r\n"
    before, begun = psutil.Process(server.gateway_process).memory_info().rss, len(server.lines())
    with server.connected() as secure, pytest.raises(OSError):
        secure.sendall(request)
        for _ in range(16 << 10):
            secure.sendall(chunk)
    assert psutil.Process(server.gateway_process).memory_info().rss - before < 64 * MEGABYTE
    assert refusals(server, begun) == [(413, f"more than {MEGABYTE} bytes")]


def test_a_stranger_cannot_make_the_gateway_read_a_body(server: Attacked) -> None:
    """The key is asked for first."""
    request = f"POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\nContent-Length: {MEGABYTE}\r\n\r\n"
    assert status(server.raw(request.encode())) == 401


@pytest.mark.parametrize("verb", ["push-messages", "pull-messages", "push-object", "activate-node", "get-run"])
def test_a_pickle_runs_nowhere_and_is_refused(server: Attacked, verb: str, tmp_path: Path) -> None:
    body = pickle.dumps(Payload(tmp_path / "ran"))
    assert 400 <= server.fleet(verb, body).status_code < 500
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("body", [b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x0f", b"\x08", b"{}"])
@pytest.mark.parametrize("verb", ["push-messages", "pull-messages"])
def test_malformed_protobuf_is_refused_with_one_line(server: Attacked, verb: str, body: bytes) -> None:
    before = len(server.lines())
    answer = server.fleet(verb, body).status_code
    assert 400 <= answer < 500
    assert [status for status, _ in refusals(server, before)] == [answer]


# Time and numbers


def slow(server: Attacked) -> ssl.SSLSocket:
    secure = server.connected()
    secure.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\n")
    return secure


def test_a_client_that_never_ends_its_headers_is_hung_up_on_though_it_keeps_talking(server: Attacked) -> None:
    with slow(server) as secure:
        hung_up = False
        for place in range(50):
            try:
                secure.sendall(b"X-%d: a\r\n" % place)
            except OSError:
                hung_up = True
                break
            time.sleep(PATIENCE_S / 10)
        assert hung_up


def test_one_address_gets_half_of_all_connections_and_the_other_half_stays_free(server: Attacked) -> None:
    most = server.server.settings.connections
    opened = []
    for _ in range(most):
        try:
            opened.append(slow(server))
        except OSError:
            continue
    ended, _, _ = select.select(opened, [], [], 0)
    with server.client(source="127.0.0.2") as client:
        assert client.get("/health").status_code == 200
    assert len(opened) - len(ended) <= most // 2
    assert not any(everything(secure) for secure in opened)  # all are hung up on in the end, without a word
    for secure in opened:
        secure.close()
