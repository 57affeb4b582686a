import json
import ssl
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from fedrelease.deployment.certificates import Authority, certificate_of, new_authority, new_key, signing_request
from fedrelease.deployment.invitation import Invitation, invitation_text, read_invitation
from fedrelease.errors import ExperimentError, IdentityError
from fedrelease.server.deployment.folder import Server, Settings, make_server, open_server
from fedrelease.server.deployment.register import admit, admitted, dismiss, invite, open_invitations

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=8)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return make_server(tmp_path / "server", settings=Settings(name="trial", names=("fed.example.org",)), now=NOW)


def test_a_site_certificate_is_for_the_key_that_asked_and_says_the_name_that_the_server_chose() -> None:
    authority, key = new_authority("trial", now=NOW), new_key()
    certificate = authority.site_certificate(signing_request("forged", key), "amazon", now=NOW)
    assert certificate.public_key() == key.public_key()
    assert certificate.subject.rfc4514_string() == "CN=amazon"
    certificate.verify_directly_issued_by(authority.certificate)


def test_a_request_that_is_signed_by_another_key_gets_no_certificate() -> None:
    authority = new_authority("trial", now=NOW)
    whole = signing_request("amazon", new_key())
    body = whole.replace(b"-----BEGIN CERTIFICATE REQUEST-----\n", b"")
    place = whole.index(body) + len(body) - 60  # in the signature
    changed = whole[:place] + (b"A" if whole[place : place + 1] != b"A" else b"B") + whole[place + 1 :]
    with pytest.raises(IdentityError, match="signing request"):
        authority.site_certificate(changed, "amazon", now=NOW)


def test_private_files_of_a_server_are_readable_by_its_owner_only(server: Server) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in server.folder.iterdir()}
    assert {modes[name] for name in ("authority.key", "server.key", "executor.secret")} == {0o600}
    assert server.folder.stat().st_mode & 0o777 == 0o700


def test_a_server_certificate_is_for_its_names_and_for_the_machine_itself(server: Server) -> None:
    context = ssl.create_default_context(cafile=str(server.authority_file))
    context.load_cert_chain(server.certificate_file, server.key_file)
    found = certificate_of(server.certificate_file.read_bytes())
    names = found.extensions.get_extension_for_oid(ssl_name()).value
    assert names.get_values_for_type(dns()) == ["fed.example.org", "localhost"]  # type: ignore[attr-defined]


def ssl_name() -> object:
    from cryptography.x509.oid import ExtensionOID

    return ExtensionOID.SUBJECT_ALTERNATIVE_NAME


def dns() -> object:
    from cryptography.x509 import DNSName

    return DNSName


def test_a_server_is_never_made_anew_over_another(server: Server) -> None:
    with pytest.raises(IdentityError, match="holds a server already"):
        make_server(server.folder, settings=server.settings, now=NOW)


def test_keys_do_not_go_among_what_lies_there_already(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("")
    with pytest.raises(IdentityError, match="is not empty"):
        make_server(tmp_path, settings=Settings(), now=NOW)
    assert [path.name for path in tmp_path.iterdir()] == ["module.py"]


def test_settings_read_back_as_they_were_written(server: Server) -> None:
    assert open_server(server.folder).settings == server.settings


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('listen = "9443"', "listen is no address"),
        ('listen = "0.0.0.0:99999"', "listen is no address"),
        ("superlink_port = true", "superlink_port is of another type"),
        ("lisen = 1", "unknown key 'lisen'"),
        ("name = ", "cannot be read"),
    ],
)
def test_settings_that_are_not_in_order_are_refused_by_key(server: Server, line: str, words: str) -> None:
    (server.folder / "server.toml").write_text(line)
    with pytest.raises(ExperimentError, match=words):
        open_server(server.folder)


def test_an_authority_with_the_key_of_another_one_is_refused(server: Server) -> None:
    other = new_authority("other", now=NOW)
    with pytest.raises(IdentityError, match="do not belong together"):
        Authority.read(other.certificate.public_bytes(Encoding.PEM), (server.folder / "authority.key").read_bytes())


def test_an_invitation_reads_back_as_it_was_written_and_never_shows_its_token(server: Server, tmp_path: Path) -> None:
    invitation = invite(server, "amazon", days=7, now=NOW)
    (tmp_path / "file").write_bytes(invitation_text(invitation))
    assert read_invitation(tmp_path / "file", now=NOW) == invitation
    assert invitation.token not in repr(invitation)
    kept = (server.folder / "invitations" / "amazon.json").read_text()
    assert invitation.token not in kept


def test_sites_are_reached_at_the_first_name_and_the_port_that_is_listened_on(server: Server) -> None:
    invitation = invite(server, "amazon", days=7, now=NOW)
    assert (invitation.server, invitation.releases) == ("fed.example.org:9443", "fed.example.org:9444")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "another format"),
        ({"token": 5}, "no invitation"),
        ({"authority": "no certificate"}, "certificate cannot be read"),
        ({"expires": "2026-11-21T00:00:00+00:00"}, "has expired"),
        ({"more": "x"}, "no invitation"),
    ],
)
def test_a_file_that_is_no_good_invitation_is_refused(
    server: Server, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    facts = {**asdict(invite(server, "amazon", days=7, now=NOW)), **change}
    (tmp_path / "file").write_text(json.dumps(facts))
    with pytest.raises(IdentityError, match=words):
        read_invitation(tmp_path / "file", now=NOW)


def request_of(invitation: Invitation, server: Server, key: object = None, **changes: str) -> str:
    request = signing_request(invitation.site, key or new_key())  # type: ignore[arg-type]
    asked = {"site": invitation.site, "token": invitation.token, **changes}
    return admit(server, request=request, now=NOW, **asked)


def test_an_invited_site_is_admitted_once_with_its_key(server: Server) -> None:
    invitation, key = invite(server, "amazon", days=7, now=NOW), new_key()
    assert list(open_invitations(server)) == ["amazon"]
    certificate = request_of(invitation, server, key)
    assert certificate_of(certificate.encode()).public_key() == key.public_key()
    assert list(admitted(server)) == ["amazon"]
    assert open_invitations(server) == {}


def test_an_answer_that_was_lost_is_given_again_to_the_same_key_and_to_no_other(server: Server) -> None:
    invitation, key = invite(server, "amazon", days=7, now=NOW), new_key()
    assert request_of(invitation, server, key) == request_of(invitation, server, key)
    with pytest.raises(IdentityError, match="used already"):
        request_of(invitation, server)


@pytest.mark.parametrize("change", [{"token": "guess"}, {"site": "movie"}, {"site": "../amazon"}, {"site": ""}])
def test_a_wrong_token_or_name_admits_nobody(server: Server, change: dict[str, str]) -> None:
    invitation = invite(server, "amazon", days=7, now=NOW)
    with pytest.raises(IdentityError, match="no such invitation"):
        request_of(invitation, server, **change)
    assert admitted(server) == {}


def test_an_invitation_that_has_expired_admits_nobody(server: Server) -> None:
    invitation = invite(server, "amazon", days=7, now=NOW)
    with pytest.raises(IdentityError, match="expired"):
        admit(server, site="amazon", token=invitation.token, request=signing_request("amazon", new_key()), now=LATER)


def test_a_site_that_lost_its_key_comes_back_with_another_only_when_it_is_invited_again(server: Server) -> None:
    request_of(invite(server, "amazon", days=7, now=NOW), server)
    with pytest.raises(IdentityError, match="admitted already"):
        invite(server, "amazon", days=7, now=NOW)
    before = admitted(server)["amazon"].key
    request_of(invite(server, "amazon", days=7, now=NOW, again=True), server)
    assert admitted(server)["amazon"].key != before


def test_a_dismissed_site_is_unknown_and_its_old_invitation_is_worth_nothing(server: Server) -> None:
    invitation, key = invite(server, "amazon", days=7, now=NOW), new_key()
    request_of(invitation, server, key)
    dismiss(server, "amazon")
    assert admitted(server) == {}
    with pytest.raises(IdentityError, match="no such invitation"):
        request_of(invitation, server, key)


@pytest.mark.parametrize("name", ["../x", "Amazon", "", "a" * 61, ".hidden", "a/b", "a\n"])
def test_a_name_that_could_not_be_a_files_is_not_invited(server: Server, name: str) -> None:
    with pytest.raises(IdentityError, match="cannot have this name"):
        invite(server, name, days=7, now=NOW)


def test_a_crash_between_the_two_files_of_an_admission_lets_no_second_key_in(server: Server) -> None:
    invitation, key = invite(server, "amazon", days=7, now=NOW), new_key()
    request_of(invitation, server, key)
    (server.folder / "sites" / "amazon.json").unlink()  # as if it ended after the first file
    with pytest.raises(IdentityError, match="used already"):
        request_of(invitation, server)
    request_of(invitation, server, key)
    assert list(admitted(server)) == ["amazon"]


def test_equal_installations_make_the_same_app_and_settings_do_not_change_it() -> None:
    from fedrelease.deployment.bundle import bundle

    first = bundle()
    bundle.cache_clear()
    assert bundle() == first
    assert replace(first, content=b"") != first
