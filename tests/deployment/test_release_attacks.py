"""Strangers, dismissed sites and servers that lie: each is refused, with a reason, and nothing that was there is changed."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from example_store import publish
from release_services import (
    MEGABYTE,
    Federation,
    at_port,
    client_of,
    in_days,
    make_federation,
    make_site,
    random_bytes,
    remote,
    serving,
    write_site,
)

from fedrelease.client.deployment.enrol import site_key
from fedrelease.client.deployment.fetch import fetch_base, fetched_base_folder
from fedrelease.deployment import releases_pb2 as messages
from fedrelease.deployment.certificates import new_authority, new_key, signing_request
from fedrelease.deployment.release_calls import LIST, MANIFEST
from fedrelease.errors import DamagedRelease, FetchError, IdentityError, SignatureError, StoreError
from fedrelease.server.deployment.folder import Server
from fedrelease.server.deployment.mirror import mirror
from fedrelease.server.deployment.register import dismiss
from fedrelease.server.deployment.release_access import Access, Limits, TooMuch
from fedrelease.server.signing import own_signer
from fedrelease.server.store import Store

# Flower's own use of another library, when an invitation names the app.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
WEIGHTS = random_bytes(2 * MEGABYTE + 5)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), weights=WEIGHTS)


@pytest.fixture(scope="module")
def port(made: Federation) -> Iterator[int]:
    with serving(made.server) as listening:
        yield listening


def lines(server: Server) -> list[dict[str, str]]:
    return [json.loads(line) for line in (server.log_folder / "releases.log").read_text().splitlines()]


@pytest.mark.parametrize("secure", [True, False])
def test_without_a_certificate_or_without_tls_nobody_gets_an_answer(made: Federation, port: int, secure: bool) -> None:
    trust = grpc.ssl_channel_credentials(made.site.authority_file.read_bytes())
    place = f"127.0.0.1:{port}"
    with grpc.secure_channel(place, trust) if secure else grpc.insecure_channel(place) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(LIST.path)(b"", timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_certificate_of_another_authority_does_not_get_through_tls(
    made: Federation, port: int, tmp_path: Path
) -> None:
    foreign, key = new_authority("others", now=in_days(0)), new_key()
    certificate = foreign.site_certificate(signing_request("amazon", key), "amazon", now=in_days(0))
    own = (made.site.authority_file.read_text(), certificate.public_bytes(Encoding.PEM).decode())
    stranger = write_site(tmp_path / "stranger", "amazon", key, authority=own[0], certificate=own[1])
    with client_of(stranger, port, patience_s=0) as client, pytest.raises(FetchError, match="cannot be reached"):
        client.releases()


def test_an_expired_certificate_does_not_get_through_tls(made: Federation, port: int, tmp_path: Path) -> None:
    key = site_key(made.site)
    old = made.server.authority().site_certificate(signing_request("amazon", key), "amazon", now=in_days(-800))
    pem = old.public_bytes(Encoding.PEM).decode()
    late = write_site(tmp_path / "late", "amazon", key, authority=made.site.authority_file.read_text(), certificate=pem)
    with client_of(late, port, patience_s=0) as client, pytest.raises(FetchError, match="cannot be reached"):
        client.releases()


def test_a_site_does_not_talk_to_a_server_of_another_authority(made: Federation, port: int, tmp_path: Path) -> None:
    foreign = shutil.copytree(made.site.folder, tmp_path / "site")
    pem = new_authority("others", now=in_days(0)).certificate.public_bytes(Encoding.PEM)
    (foreign / "authority.pem").write_bytes(pem)
    with client_of(replace(made.site, folder=foreign), port, patience_s=0) as client, pytest.raises(FetchError):
        client.releases()


def test_a_dismissed_site_is_refused_at_its_next_call_although_its_certificate_is_good(
    made: Federation, port: int, tmp_path: Path
) -> None:
    gone = make_site(made.server, "gone", tmp_path / "gone")
    with client_of(gone, port) as client:
        assert client.size(remote(WEIGHTS).sha256) == len(WEIGHTS)
        following = client.follow("stable", until=lambda: False)
        assert next(following).version == "0.1.2"
        dismiss(made.server, "gone")
        with pytest.raises(IdentityError, match="not that of an admitted site"):
            client.releases()
        with pytest.raises(IdentityError, match="not that of an admitted site"):
            next(following)  # it was open all the time
    assert {"List", "Follow"} <= {one["call"] for one in lines(made.server) if one["status"] == "PERMISSION_DENIED"}


@pytest.mark.parametrize(
    "name", ["../../server.key", "sha256:../../etc/passwd", "", "A" * 64, "0" * 63, "0" * 64 + "\0"]
)
def test_what_is_no_sha256_is_refused_before_anything_is_looked_for(made: Federation, port: int, name: str) -> None:
    with client_of(made.site, port) as client, pytest.raises(FetchError, match="no sha256") as refused:
        client.size(name)
    assert refused.value.value == "INVALID_ARGUMENT"
    assert lines(made.server)[-1]["status"] == "INVALID_ARGUMENT"


def test_a_digest_that_no_release_refers_to_is_refused_even_if_the_store_has_it(made: Federation, port: int) -> None:
    with made.store.lock():
        loose = made.store.put_blob(b"an update of a single site")
    with client_of(made.site, port) as client:
        for ask in (client.size, client.base, lambda sha256: client.manifest(f"sha256:{sha256}")):
            with pytest.raises(FetchError) as refused:
                ask(loose)
            assert refused.value.value == "NOT_FOUND"


def test_an_offset_beyond_the_end_is_refused_and_the_end_itself_gives_nothing(made: Federation, port: int) -> None:
    sha256 = remote(WEIGHTS).sha256
    with client_of(made.site, port) as client:
        assert list(client.read(sha256, len(WEIGHTS))) == []
        with pytest.raises(grpc.RpcError) as refused:
            list(client.read(sha256, len(WEIGHTS) + 1))
    assert refused.value.code() is grpc.StatusCode.OUT_OF_RANGE


def test_a_request_that_is_too_long_or_no_message_is_refused_and_the_service_goes_on(
    made: Federation, port: int
) -> None:
    with client_of(made.site, port) as client:
        ask = client._channel.unary_unary(MANIFEST.path)
        with pytest.raises(grpc.RpcError) as long:
            ask(messages.ManifestRequest(digest="x" * 100_000).SerializeToString(), timeout=10)
        with pytest.raises(grpc.RpcError) as wrong:
            ask(b"\x80\x04cposix\nsystem\n", timeout=10)
        assert long.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert wrong.value.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
        assert client.releases().generation


def test_who_asks_too_often_is_slowed_down_and_logged_once(made: Federation) -> None:
    now = [0.0]
    access = Access(made.server, limits=Limits(per_second=2, burst=3, streams=1), clock=lambda: now[0])
    for _ in range(3):
        access.count("amazon")
    for value in ("amazon", None, None):
        with pytest.raises(TooMuch, match="too many requests") as refused:
            access.count("amazon")
        assert refused.value.value == value
    access.count("movie")  # each has its own
    now[0] = 0.5
    access.count("amazon")
    with access.stream("amazon"), pytest.raises(TooMuch, match="streams"), access.stream("amazon"):
        pass


def test_a_client_that_is_slowed_down_gets_everything_all_the_same(made: Federation, tmp_path: Path) -> None:
    limits = Limits(per_second=20, burst=2, streams=1)
    with serving(made.server, limits) as slow, client_of(made.site, slow, patience_s=60.0) as client:
        copied = mirror(client, tmp_path / "here", partial=tmp_path / "partial", home=tmp_path / "keys")
    assert copied.lines == 3
    assert "RESOURCE_EXHAUSTED" in {one["status"] for one in lines(made.server)}


@pytest.mark.parametrize("wrong", [lambda data: data[:-9], lambda data: bytes([data[0] ^ 1]) + data[1:]])
def test_a_truncated_or_changed_blob_at_the_server_never_gets_its_name(
    tmp_path: Path, wrong: Callable[[bytes], bytes]
) -> None:
    own = make_federation(tmp_path, weights=b"weights", rounds=1)
    keys = {"partial": tmp_path / "partial", "home": tmp_path / "site-keys"}
    damaged = own.store.blob_path(own.store.find("0.1.1").manifest.files[0].sha256)
    data = damaged.read_bytes()
    damaged.chmod(0o644)
    damaged.write_bytes(wrong(data))
    with serving(own.server) as port, client_of(own.site, port) as client:
        with pytest.raises(DamagedRelease, match="not those of this digest"):
            mirror(client, tmp_path / "copy", **keys)
        assert not list(keys["partial"].glob(f"{damaged.name}*")) and not Store.open(tmp_path / "copy").releases()
        damaged.write_bytes(data)
        mirror(client, tmp_path / "copy", **keys)
    head, copied = own.store.head(), Store.open(tmp_path / "copy").head()
    assert head is not None and copied is not None and copied.digest == head.digest


def test_an_old_state_that_is_put_back_at_the_server_is_refused(tmp_path: Path) -> None:
    own = make_federation(tmp_path, weights=b"weights", rounds=1)
    keys = {"partial": tmp_path / "partial", "home": tmp_path / "site-keys"}
    shutil.copytree(own.store.folder, tmp_path / "old")
    with own.store.lock():
        publish(own.store, 2, told=True)
    with serving(own.server) as port, client_of(own.site, port) as client:
        mirror(client, tmp_path / "copy", **keys)
        before = Store.open(tmp_path / "copy").find("stable").digest
        shutil.rmtree(own.store.folder)
        shutil.copytree(tmp_path / "old", own.store.folder)
        with pytest.raises(SignatureError, match="generation 2, and the copy here at 3"):
            mirror(client, tmp_path / "copy", **keys)
        with pytest.raises(SignatureError, match="generation 2, and this machine has seen 3"):
            shutil.rmtree(tmp_path / "copy")  # the copy is gone, and its machine remembers all the same
            mirror(client, tmp_path / "copy", **keys)
    assert before != Store.open(own.store.folder).find("stable").digest


def test_a_move_or_a_release_that_the_keys_did_not_sign_is_refused_before_anything_points_at_it(tmp_path: Path) -> None:
    own = make_federation(tmp_path, weights=b"weights", rounds=1)
    keys = {"partial": tmp_path / "partial", "home": tmp_path / "site-keys"}
    with serving(own.server) as port, client_of(own.site, port) as client:
        mirror(client, tmp_path / "copy", **keys)
        for path in (own.store.folder / "keys").iterdir():
            path.chmod(0o644)
        shutil.rmtree(own.store.folder / "keys")  # somebody at the server, with keys of his own
        thief = Store.open(own.store.folder, signer=own_signer(tmp_path / "thief"))
        with thief.lock():
            publish(thief, 2, told=True)
        with pytest.raises(SignatureError):
            mirror(client, tmp_path / "copy", **keys)
        copy = Store.open(tmp_path / "copy")
        assert copy.find("stable").version == "0.1.1" and len(copy.releases()) == 2


def test_a_base_whose_list_is_not_that_of_its_digest_is_refused(made: Federation, port: int, tmp_path: Path) -> None:
    with client_of(make_site(made.server, "reader", tmp_path / "reader"), port) as client:
        site = at_port(made.site, port)
        digest, files = client.base()
        told = (digest, (replace(files[0], name="../../home/ledger.jsonl"), *files[1:]))
        client.base = lambda wanted="": told  # type: ignore[method-assign,assignment]  # a server that lies
        with pytest.raises(DamagedRelease, match="not what its digest promises"):
            fetch_base(client, site)
    assert fetched_base_folder(site, digest) is None
    with pytest.raises(StoreError, match="no sha256"):
        fetched_base_folder(site, "../home")
