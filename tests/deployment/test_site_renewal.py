"""A site renews its certificate itself; who is not that site, or no site any more, gets none. All of it real."""

import json
import ssl
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from deployments import free_ports
from server_folders import running_gateway, server_folder, site_folder

from fedrelease.cli import run
from fedrelease.client.deployment.enrol import connect, site_key
from fedrelease.client.deployment.folder import SiteFolder, SiteSettings
from fedrelease.client.deployment.identity_checks import GRACE_DAYS, check_identity
from fedrelease.client.deployment.renewal import AGAIN_S, Renewal, own_certificate, renew_certificate
from fedrelease.deployment.certificates import certificate_of, days_left, new_authority, new_key
from fedrelease.deployment.logs import Log, read_log
from fedrelease.deployment.question import Question, new_nonce, signed_question
from fedrelease.errors import FedreleaseError, IdentityError
from fedrelease.server.deployment.askers import GRACE, Askers
from fedrelease.server.deployment.folder import Server
from fedrelease.server.deployment.register import admitted, dismiss, renew_site
from fedrelease.server.deployment.status import read_status

NOW = datetime.now(UTC)
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = server_folder(tmp_path_factory.mktemp("running"), port=free_ports(1))
    with running_gateway(made):
        yield made


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return server_folder(tmp_path)


def aged(server: Server, site: SiteFolder, *, days_left: float) -> None:
    """Let the site and the register have a certificate that ends in so many days."""
    made_at = NOW - timedelta(days=730) + timedelta(days=days_left)
    key = site_key(site).public_key()
    certificate = server.authority().site_certificate_again(key, site.settings.site, now=made_at)
    site.certificate_file.write_bytes(certificate.public_bytes(Encoding.PEM))
    path = server.folder / "sites" / f"{site.settings.site}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "certificate": site.certificate_file.read_text()}))


def question(own: SiteFolder, **other: str) -> Question:
    facts = {"what": "renew", "site": own.settings.site, "time": NOW.isoformat(), "nonce": new_nonce()}
    return Question(**{**facts, "certificate": own.certificate_file.read_text(), **other})


def body(own: SiteFolder, *, key: ec.EllipticCurvePrivateKey | None = None, **other: str) -> bytes:
    return signed_question(key or site_key(own), question(own, **other))


def refusal(server: Server, sent: bytes, *, now: datetime = NOW) -> str:
    with pytest.raises(FedreleaseError) as refused:
        Askers(server).asker(sent, what="renew", now=now)
    return refused.value.what


# Over the gateway


def test_a_renewed_certificate_is_for_the_same_key_and_name_lasts_longer_and_is_the_registers(
    running: Server, tmp_path: Path
) -> None:
    site = site_folder(running, tmp_path, "renews")
    aged(running, site, days_left=3)
    key, before = site.key_file.read_bytes(), own_certificate(site)
    made = renew_certificate(site, now=datetime.now(UTC))
    assert own_certificate(site) == made == certificate_of(admitted(running)["renews"].certificate.encode())
    assert (made.public_key(), site.key_file.read_bytes()) == (before.public_key(), key)
    assert made.not_valid_after_utc - before.not_valid_after_utc > timedelta(days=726)
    assert {one.status for one in check_identity(site, now=NOW)} == {"pass"}
    assert any(line["event"] == "renewed" and line["site"] == "renews" for line in logged(running))


def logged(server: Server) -> list[dict[str, object]]:
    return [dict(line) for line in read_log(server.log_folder / "gateway.log")]


def test_a_dismissed_site_gets_no_certificate_and_keeps_the_one_it_has(running: Server, tmp_path: Path) -> None:
    site = site_folder(running, tmp_path, "gone")
    before = site.certificate_file.read_bytes()
    dismiss(running, "gone")
    with pytest.raises(IdentityError, match="no admitted site has signed this") as refused:
        renew_certificate(site, now=datetime.now(UTC))
    assert "invite SITE --again" in refused.value.hint
    assert site.certificate_file.read_bytes() == before and "gone" not in admitted(running)
    last = logged(running)[-1]
    assert (last["event"], last["status"], last["path"]) == ("refused", 403, "/renew")


def test_a_recorded_question_is_refused_the_second_time(running: Server, tmp_path: Path) -> None:
    site = site_folder(running, tmp_path, "recorded")
    sent = body(site, time=datetime.now(UTC).isoformat())
    with connect(site) as client:
        first, second = (client.post("/renew", content=sent) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 403)
    assert second.json()["what"] == "this was asked before"
    assert admitted(running)["recorded"].certificate == first.json()["certificate"]


@pytest.mark.parametrize(
    "sent",
    [b"", b"{", b"[]", b"null", b'{"what": "renew"}', b"[" * 5000, b"\xff\xfe", b'{"signature": 1}'],
    ids=range(8),
)
def test_what_is_no_question_is_refused_with_one_line(running: Server, tmp_path: Path, sent: bytes) -> None:
    site, before = SiteFolder(folder=tmp_path, settings=_settings(running)), len(logged(running))
    site.authority_file.write_bytes(running.authority_file.read_bytes())
    with connect(site) as client:
        assert client.post("/renew", content=sent).status_code == 403
        assert client.post("/renew", content=b"x" * 20_000).status_code == 413
    assert [line["status"] for line in logged(running)[before:]] == [403, 413]


def _settings(server: Server) -> SiteSettings:
    return SiteSettings(site="nobody", server=server.settings.listen)


# Who asks


def test_a_foreign_key_is_refused_whatever_certificate_it_shows(server: Server, tmp_path: Path) -> None:
    site, key = site_folder(server, tmp_path, "a"), new_key()
    own = server.authority().site_certificate_again(key.public_key(), "a", now=NOW)  # even one of our authority
    shown = own.public_bytes(Encoding.PEM).decode()
    assert refusal(server, body(site, key=key)) == "no admitted site has signed this"
    assert refusal(server, body(site, key=key, certificate=shown)) == "no admitted site has signed this"
    assert refusal(server, body(site, certificate=shown)) == "the certificate is not that of this site"


@pytest.mark.parametrize("name", ["b", "../a", "", "A", "a\x00", "nobody"])
def test_a_site_asks_in_no_other_name(server: Server, tmp_path: Path, name: str) -> None:
    site, _ = site_folder(server, tmp_path, "a"), site_folder(server, tmp_path, "b")
    assert refusal(server, body(site, site=name)) == "no admitted site has signed this"


def test_another_sites_certificate_or_that_of_another_authority_is_refused(server: Server, tmp_path: Path) -> None:
    site, other = site_folder(server, tmp_path, "a"), site_folder(server, tmp_path, "b")
    foreign = new_authority("trial", now=NOW).site_certificate_again(site_key(site).public_key(), "a", now=NOW)
    renamed = server.authority().site_certificate_again(site_key(site).public_key(), "b", now=NOW)
    for certificate in (
        other.certificate_file.read_text(),
        foreign.public_bytes(Encoding.PEM).decode(),
        renamed.public_bytes(Encoding.PEM).decode(),
        server.certificate_file.read_text(),
    ):
        assert refusal(server, body(site, certificate=certificate)) == "the certificate is not that of this site"
    assert refusal(server, body(site, certificate="none")) == "a certificate cannot be read"


@pytest.mark.parametrize(("ended_days", "renewed"), [(0.5, True), (6.9, True), (7.1, False), (400.0, False)])
def test_a_certificate_that_ended_is_renewed_for_a_week_and_not_later(
    server: Server, tmp_path: Path, ended_days: float, renewed: bool
) -> None:
    site = site_folder(server, tmp_path, "a")
    aged(server, site, days_left=-ended_days)
    if renewed:
        assert Askers(server).asker(body(site), what="renew", now=NOW).site == "a"
    else:
        assert refusal(server, body(site)) == "the certificate ended too long ago"
    assert GRACE.days == GRACE_DAYS, "the site's hint says what the server does"


@pytest.mark.parametrize("minutes", [-6, 6])
def test_a_question_of_another_time_is_refused(server: Server, tmp_path: Path, minutes: int) -> None:
    site = site_folder(server, tmp_path, "a")
    assert refusal(server, body(site), now=NOW + timedelta(minutes=minutes)) == "the question is too old"
    assert refusal(server, body(site, time="yesterday")) == "the question is too old"


def test_a_signature_is_good_for_its_own_question_only(server: Server, tmp_path: Path) -> None:
    site = site_folder(server, tmp_path, "a")
    assert refusal(server, body(site, what="asks")) == "another question was signed"
    whole = json.loads(body(site))
    for name in ("what", "site", "certificate", "time", "nonce"):
        changed = json.dumps({**whole, name: whole[name] + "x"}).encode()
        assert refusal(server, changed) == "no admitted site has signed this"
    signature = site_key(site).sign(NOW.isoformat().encode(), ec.ECDSA(SHA256()))  # as a SuperNode signs the time
    as_flower = json.dumps({**whole, "signature": b64encode(signature).decode()}).encode()
    assert refusal(server, as_flower) == "no admitted site has signed this"


# The register


def test_a_recording_that_outlives_the_gateways_memory_makes_nothing_new(server: Server, tmp_path: Path) -> None:
    """So does a site whose answer was lost: it gets the certificate that was made for it."""
    site = site_folder(server, tmp_path, "a")
    shown = site.certificate_file.read_text()
    found = [renew_site(server, site="a", key=admitted(server)["a"].key, shown=shown, now=NOW) for _ in range(2)]
    assert found[0] == found[1] == admitted(server)["a"].certificate != shown


def test_a_renewal_that_comes_after_the_dismissal_does_not_bring_the_site_back(server: Server, tmp_path: Path) -> None:
    site = site_folder(server, tmp_path, "a")
    asker = Askers(server).asker(body(site), what="renew", now=NOW)
    dismiss(server, "a")
    with pytest.raises(IdentityError, match="no such site is admitted with this key"):
        renew_site(server, site="a", key=asker.key, shown=asker.certificate, now=NOW)
    assert admitted(server) == {}


def test_an_authority_that_has_expired_renews_no_site(server: Server, tmp_path: Path) -> None:
    site, later = site_folder(server, tmp_path, "a"), NOW + timedelta(days=3651)
    key, shown = admitted(server)["a"].key, site.certificate_file.read_text()
    with pytest.raises(IdentityError, match="authority has expired"):
        renew_site(server, site="a", key=key, shown=shown, now=later)


# What the site believes


@contextmanager
def answering(server: Server, certificate: bytes) -> Iterator[str]:
    """A TLS server with the right identity that answers everybody with one certificate; its address."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"certificate": certificate.decode()}).encode())

        def log_message(self, *said: object) -> None:
            del said

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.certificate_file, server.key_file)
    with HTTPServer(("127.0.0.1", 0), Answer) as served:
        served.socket = context.wrap_socket(served.socket, server_side=True)
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"127.0.0.1:{served.server_port}"
        finally:
            served.shutdown()
            thread.join()


def made(server: Server, key: ec.EllipticCurvePublicKey, name: str = "a", *, days: float = 0) -> bytes:
    found = server.authority().site_certificate_again(key, name, now=NOW + timedelta(days=days))
    return found.public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda server, key: made(server, new_key().public_key()), "another key or another site"),
        (lambda server, key: made(server, key, "b"), "another key or another site"),
        (lambda server, key: made(server, key, days=-100), "ends before the one that is here"),
        (
            lambda server, key: (
                new_authority("x", now=NOW).site_certificate_again(key, "a", now=NOW).public_bytes(Encoding.PEM)
            ),
            "of another authority",
        ),
        (lambda server, key: b"no certificate", "cannot be read"),
    ],
)
def test_a_site_believes_only_a_newer_certificate_for_its_own_key_and_name(
    server: Server, tmp_path: Path, answer: Callable[[Server, ec.EllipticCurvePublicKey], bytes], words: str
) -> None:
    site = site_folder(server, tmp_path, "a")
    before = site.certificate_file.read_bytes()
    with answering(server, answer(server, site_key(site).public_key())) as address:
        asks = replace(site, settings=replace(site.settings, server=address))
        with pytest.raises(IdentityError, match=words):
            renew_certificate(asks, now=NOW)
    assert site.certificate_file.read_bytes() == before


# By itself, and what is shown


def lines(site: SiteFolder) -> list[dict[str, object]]:
    return [dict(line) for line in read_log(site.log_folder / "site.log")]


def renewal(site: SiteFolder, clock: Callable[[], float] = lambda: 0.0) -> Renewal:
    return Renewal(site, Log(site.log_folder / "site.log", process="site"), clock=clock)


def test_a_running_site_renews_in_time_once_and_says_so(running: Server, tmp_path: Path) -> None:
    site = site_folder(running, tmp_path, "soon")
    aged(running, site, days_left=13.5)
    for _ in range(2):
        renewal(site).look()
    assert days_left(own_certificate(site), NOW) > 729
    assert [(line["event"], line["days_before"]) for line in lines(site)] == [("renewed", 13.5)]


@pytest.mark.parametrize(("left", "days"), [(14.5, 14.0), (1.0, 0.0), (14.5, 14.5)])
def test_nobody_is_asked_while_enough_days_are_left_or_when_it_is_not_wished(
    server: Server, tmp_path: Path, left: float, days: float
) -> None:
    """Nothing listens at the server's address: a question would leave a line."""
    site = site_folder(server, tmp_path, "a")
    aged(server, site, days_left=left)
    renewal(replace(site, settings=replace(site.settings, renew_days=days))).look()
    assert lines(site) == []


def test_a_renewal_that_fails_is_a_line_and_comes_again_in_an_hour(server: Server, tmp_path: Path) -> None:
    site, time = site_folder(server, tmp_path, "a"), [0.0]
    aged(server, site, days_left=5)
    own = renewal(site, lambda: time[0])
    for time[0] in (0.0, 1.0, AGAIN_S - 1, AGAIN_S, AGAIN_S + 1):
        own.look()
    assert [line["event"] for line in lines(site)] == ["not-renewed"] * 2
    assert "cannot be reached" in str(lines(site)[0]["why"])


def test_the_command_says_until_when_and_json_in_days(running: Server, tmp_path: Path, capsys: Capture) -> None:
    site = site_folder(running, tmp_path, "types")
    assert run(["site", "renew", "--folder", str(site.folder)]) == 0
    assert "is for types, until 20" in capsys.readouterr().out
    assert run(["site", "renew", "--folder", str(site.folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["days"] == pytest.approx(730, abs=0.2)


def test_the_command_of_a_site_whose_server_is_away_fails_with_a_way_out(
    server: Server, tmp_path: Path, capsys: Capture
) -> None:
    site = site_folder(server, tmp_path, "a")
    assert run(["site", "renew", "--folder", str(site.folder)]) == 1
    said = capsys.readouterr().err
    assert "cannot be reached" in said and "fedrelease site check" in said


def test_check_and_status_show_the_days_that_are_left(server: Server, tmp_path: Path, capsys: Capture) -> None:
    site = site_folder(server, tmp_path, "a")
    aged(server, site, days_left=20.2)
    (certificate,) = (one for one in check_identity(site, now=NOW) if one.name == "certificate")
    assert (certificate.status, certificate.hint) == ("warn", "fedrelease site renew")
    assert "20 days left" in certificate.found
    assert read_status(server, now=NOW).sites[0].certificate_days == 20.2
    assert run(["server", "status", "--folder", str(server.folder)]) == 0
    assert "20 days" in capsys.readouterr().out
