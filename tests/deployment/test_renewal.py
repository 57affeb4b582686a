import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography import x509

from fedrelease.cli import run
from fedrelease.client.deployment.folder import SiteFolder, SiteSettings
from fedrelease.client.deployment.healthy import trouble as trouble_of_site
from fedrelease.deployment.certificates import certificate_of, new_key, private_pem
from fedrelease.errors import ExperimentError, IdentityError
from fedrelease.server.deployment.folder import Server, Settings, make_server, open_server, renew
from fedrelease.server.deployment.healthy import main, trouble
from fedrelease.server.lock import hold

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return make_server(tmp_path / "server", settings=Settings(names=("old.example.org",)), now=NOW)


def names_in(server: Server) -> list[str]:
    found = certificate_of(server.certificate_file.read_bytes()).extensions
    alternatives = found.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(one.value) for one in alternatives]


def rename(server: Server, *names: str) -> Server:
    return replace(server, settings=replace(server.settings, names=names))


def test_a_renewed_certificate_has_the_new_names_and_this_machines_own(server: Server) -> None:
    renew(rename(server, "new.example.org", "10.0.0.4"), now=NOW)
    assert names_in(server) == ["new.example.org", "10.0.0.4", "localhost", "127.0.0.1"]


def test_a_renewed_certificate_is_signed_by_the_same_authority_for_the_same_key_and_lasts_longer(
    server: Server,
) -> None:
    before, key = certificate_of(server.certificate_file.read_bytes()), server.key_file.read_bytes()
    after = renew(server, now=NOW + timedelta(days=700))
    after.verify_directly_issued_by(server.authority().certificate)
    assert (after.public_key(), server.key_file.read_bytes()) == (before.public_key(), key)
    assert after.not_valid_after_utc - before.not_valid_after_utc == timedelta(days=700)
    assert after.serial_number != before.serial_number


def test_an_authority_that_has_expired_renews_nothing(server: Server) -> None:
    before = server.certificate_file.read_bytes()
    with pytest.raises(IdentityError, match="authority has expired"):
        renew(server, now=NOW + timedelta(days=3651))
    assert server.certificate_file.read_bytes() == before


def test_a_name_that_cannot_stand_in_a_certificate_is_named_and_the_old_certificate_stays(server: Server) -> None:
    with pytest.raises(ExperimentError, match="cannot stand in a certificate") as caught:
        renew(rename(server, "münchen.example"), now=NOW)
    assert caught.value.to_json()["value"] == "münchen.example"
    assert "old.example.org" in names_in(server)


def test_a_servers_key_that_is_missing_or_broken_is_an_error_that_shows_no_part_of_it(server: Server) -> None:
    secret = server.key_file.read_text().splitlines()[1]
    server.key_file.write_text(f"-----BEGIN PRIVATE KEY-----\n{secret}\n")
    with pytest.raises(IdentityError, match="key cannot be read") as caught:
        renew(server, now=NOW)
    assert secret not in json.dumps(caught.value.to_json())
    server.key_file.unlink()
    with pytest.raises(IdentityError, match="key cannot be read"):
        renew(server, now=NOW)


def test_the_command_reads_server_toml_and_says_until_when(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    file = server.folder / "server.toml"
    file.write_text(file.read_text().replace("old.example.org", "fed.example.org"))
    assert run(["server", "renew", "--folder", str(server.folder)]) == 0
    said = capsys.readouterr().out
    assert "is for fed.example.org, until 20" in said
    assert "next start" not in said
    assert "fed.example.org" in names_in(server)


def test_the_command_says_that_a_server_which_runs_takes_it_at_its_next_start(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    with hold(server.folder / ".lock"):
        assert run(["server", "renew", "--folder", str(server.folder)]) == 0
        assert "takes it at its next start" in capsys.readouterr().out
        assert run(["server", "renew", "--folder", str(server.folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["running"] is True


def test_without_a_server_the_command_says_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["server", "renew", "--folder", str(tmp_path / "none")]) == 2
    assert "fedrelease server init" in capsys.readouterr().err


@contextmanager
def answering(server: Server, status: int, *, identity: Server) -> Iterator[Server]:
    """A TLS server on a free port that answers with ``status``; yields the server as if it listened there."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *said: object) -> None:
            del said

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate_file, identity.key_file)
    with HTTPServer(("127.0.0.1", 0), Answer) as served:
        served.socket = context.wrap_socket(served.socket, server_side=True)
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield replace(server, settings=replace(server.settings, listen=f"0.0.0.0:{served.server_port}"))
        finally:
            served.shutdown()
            thread.join()


def test_a_server_is_well_when_its_gateway_says_so_with_the_renewed_certificate(server: Server) -> None:
    renew(rename(server, "new.example.org"), now=datetime.now(UTC))
    with answering(server, 200, identity=server) as asked:
        assert trouble(asked) is None


def test_a_server_whose_superlink_is_away_or_that_nobody_serves_is_not_well(server: Server) -> None:
    with answering(server, 503, identity=server) as asked:
        assert trouble(asked) == "the gateway answers 503"
    assert "does not answer" in str(trouble(asked))


def test_somebody_else_at_the_servers_port_is_not_taken_for_it(server: Server, tmp_path: Path) -> None:
    other = make_server(tmp_path / "other", settings=Settings(), now=NOW)
    with answering(server, 200, identity=other) as asked:
        assert "does not answer" in str(trouble(asked))


def test_the_health_check_of_a_folder_without_a_server_ends_with_words(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds no server"):
        main(tmp_path)


def test_a_site_is_well_when_its_supernode_listens(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = SiteSettings(site="a", server="x:1", port=listener.getsockname()[1])
        site = SiteFolder(folder=tmp_path, settings=settings)
        assert trouble_of_site(site) is None
    assert "does not answer" in str(trouble_of_site(site))


def test_a_renewed_pair_of_files_loads_as_one_identity(server: Server) -> None:
    renew(server, now=NOW)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(server.certificate_file, server.key_file)
    server.key_file.write_bytes(private_pem(new_key()))
    with pytest.raises(ssl.SSLError):
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(server.certificate_file, server.key_file)
    assert open_server(server.folder).settings.names == ("old.example.org",)
