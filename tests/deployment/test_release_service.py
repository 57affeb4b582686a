"""The release service over real TLS: bases and releases reach a site whole, whatever the line does."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from example_store import publish
from grpc import secure_channel, ssl_channel_credentials
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from release_services import (
    MEGABYTE,
    BrokenLine,
    Federation,
    client_of,
    make_federation,
    make_site,
    random_bytes,
    remote,
    serving,
)

from fedrelease.client.deployment.enrol import site_key
from fedrelease.client.deployment.fetch import fetch_base, fetched_base_folder, partial_folder
from fedrelease.deployment.certificates import private_pem
from fedrelease.deployment.download import download
from fedrelease.deployment.generate import generate
from fedrelease.deployment.release_calls import SERVICE
from fedrelease.models.bases import open_base
from fedrelease.server.deployment.mirror import mirror
from fedrelease.server.lifecycle import By, promote
from fedrelease.server.store import Store
from fedrelease.server.verify import verify

# Flower's own use of another library, when an invitation names the app.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
WEIGHTS = random_bytes(6 * MEGABYTE + 17)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), weights=WEIGHTS)


@pytest.fixture(scope="module")
def port(made: Federation) -> Iterator[int]:
    with serving(made.server) as listening:
        yield listening


def test_the_generated_messages_are_those_of_the_proto_file(tmp_path: Path) -> None:
    for path in generate(tmp_path):
        assert path.read_text() == (Path(generate.__code__.co_filename).parent / path.name).read_text()


def test_releases_are_listed_with_their_channels_and_their_manifests_are_those_of_the_store(
    made: Federation, port: int
) -> None:
    with client_of(made.site, port) as client:
        told = client.releases()
        assert [(one.version, one.verdict) for one in told.releases] == [
            ("0.0.0", "released"),
            ("0.1.1", "released"),
            ("0.1.2", "released"),
        ]
        assert list(told.releases[-1].channels) == ["candidate", "stable"]
        assert told.generation == made.store.channels().generation
        last = made.store.find("stable")
        assert client.manifest(last.digest) == last.manifest.to_bytes()


def test_a_base_reaches_a_site_by_its_digest_and_opens_there(made: Federation, port: int) -> None:
    seen: list[tuple[int, int]] = []
    with client_of(made.site, port) as client:
        digest, folder = fetch_base(client, made.site, progress=lambda done, total: seen.append((done, total)))
        assert fetch_base(client, made.site, digest=digest) == (digest, folder)
    wanted = open_base(str(made.base), cache=made.base)
    assert open_base(str(folder), cache=folder).digest == digest == wanted.digest
    assert fetched_base_folder(made.site, digest) == folder
    assert seen[-1][0] == seen[-1][1] == sum(path.stat().st_size for path in made.base.rglob("*") if path.is_file())
    assert not list(partial_folder(made.site).iterdir())


def test_a_blob_survives_ten_cuts_and_no_byte_travels_twice(made: Federation, port: int, tmp_path: Path) -> None:
    with BrokenLine(port, after=700_000, times=10) as line, client_of(made.site, line.port, patience_s=20) as client:
        download(client, [remote(WEIGHTS)], tmp_path)
        assert line.left <= 0
    assert (tmp_path / remote(WEIGHTS).sha256).read_bytes() == WEIGHTS
    assert line.passed < 3 * len(WEIGHTS)  # a cut loses what was under way, at most a window of it


def test_a_bit_that_flips_on_the_way_ends_the_connection_and_not_the_download(
    made: Federation, port: int, tmp_path: Path
) -> None:
    with (
        BrokenLine(port, after=900_000, times=2, flip=True) as line,
        client_of(made.site, line.port, patience_s=20) as client,
    ):
        download(client, [remote(WEIGHTS)], tmp_path)
        assert line.left <= 0
    assert (tmp_path / remote(WEIGHTS).sha256).read_bytes() == WEIGHTS


def test_a_download_goes_on_from_the_part_that_is_there(made: Federation, port: int, tmp_path: Path) -> None:
    file = remote(WEIGHTS)
    (tmp_path / f"{file.sha256}.part").write_bytes(WEIGHTS[: 5 * MEGABYTE])
    seen: list[int] = []
    with client_of(made.site, port) as client:
        download(client, [file], tmp_path, progress=lambda done, total: seen.append(done))
    assert seen[0] == 5 * MEGABYTE and seen[-1] == len(WEIGHTS)
    assert [path.name for path in tmp_path.iterdir()] == [file.sha256]


@pytest.mark.parametrize("part", [WEIGHTS[:1000] + b"!" + WEIGHTS[1001:9000], WEIGHTS + b"more"])
def test_a_part_that_was_damaged_on_the_disk_begins_anew(
    part: bytes, made: Federation, port: int, tmp_path: Path
) -> None:
    file = remote(WEIGHTS)
    (tmp_path / f"{file.sha256}.part").write_bytes(part)
    with client_of(made.site, port) as client:
        download(client, [file], tmp_path)
    assert (tmp_path / file.sha256).read_bytes() == WEIGHTS


def test_a_store_is_mirrored_whole_and_signed_and_again_costs_nothing(
    made: Federation, port: int, tmp_path: Path
) -> None:
    keys = {"partial": tmp_path / "partial", "home": tmp_path / "keys"}
    with client_of(made.site, port) as client:
        first = mirror(client, tmp_path / "here", **keys)
        again = mirror(client, tmp_path / "here", **keys)
    assert first.lines == 3 and (again.files, again.lines) == (0, 0)
    here = Store.open(tmp_path / "here")
    report = verify(here, home=tmp_path / "keys")
    assert report.ok and set(report.signers) == {"channel", "release"}
    assert here.find("stable").digest == made.store.find("stable").digest


def test_updates_of_single_sites_and_later_reports_never_leave_the_server(made: Federation, port: int) -> None:
    with made.store.lock():
        made.store.attach(made.store.find("stable").digest, "gate-report", b"internal")
    with client_of(made.site, port) as client:
        names = [file.name for file in client.contents()]
    kinds = {name.rpartition("/")[2].partition(".")[0] for name in names if name.startswith("attach/")}
    assert kinds == {"signature"}
    assert {name.partition("/")[0] for name in names} == {"attach", "blobs", "keys"}


def test_following_a_channel_tells_where_it_is_and_each_move(tmp_path: Path) -> None:
    own = make_federation(tmp_path, weights=b"weights")
    over, versions = threading.Event(), []
    with serving(own.server) as port, client_of(own.site, port) as client:
        for moved in client.follow("stable", until=over.is_set):
            versions.append((moved.version, moved.generation))
            if len(versions) == 1:
                with own.store.lock():
                    publish(own.store, 3, told=True)  # held: no channel moves
                    promote(
                        own.store,
                        "0.1.1",
                        to="stable",
                        by=By(actor="ada", reason="trial", time="2031-05-01T12:09:00+00:00"),
                    )
            else:
                over.set()
    assert versions == [("0.1.2", 3), ("0.1.1", 4)]


def test_who_follows_hears_on_after_the_service_was_away(tmp_path: Path) -> None:
    own = make_federation(tmp_path, weights=b"weights")
    over, told = threading.Event(), []
    with serving(own.server) as port:
        pass
    with (
        serving(own.server) as port,
        BrokenLine(port, after=2500, times=1) as line,
        client_of(own.site, line.port) as client,
    ):
        for moved in client.follow("stable", until=over.is_set):
            told.append(moved.version)
            if len(told) == 1:
                client.releases()  # more bytes: the line breaks
                with own.store.lock():
                    publish(own.store, 4, told=True)
            else:
                over.set()
    assert told == ["0.1.2", "0.1.4"] and line.left <= 0


def test_health_and_reflection_answer_whoever_has_a_certificate(made: Federation, port: int) -> None:
    site = made.site
    credentials = ssl_channel_credentials(
        site.authority_file.read_bytes(), private_pem(site_key(site)), site.certificate_file.read_bytes()
    )
    with secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        asked = health_pb2.HealthCheckRequest(service=SERVICE)
        assert health_pb2_grpc.HealthStub(channel).Check(asked).status == health_pb2.HealthCheckResponse.SERVING
        wanted = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([wanted]))
        assert SERVICE in [one.name for one in answer.list_services_response.service]


def test_a_site_that_comes_later_is_let_in_at_once(made: Federation, port: int, tmp_path: Path) -> None:
    with client_of(make_site(made.server, "later", tmp_path / "later"), port) as client:
        assert client.size(remote(WEIGHTS).sha256) == len(WEIGHTS)


def test_the_service_and_its_client_need_no_torch() -> None:
    modules = ("server.deployment.release_service", "server.deployment.mirror", "client.deployment.fetch")
    names = ", ".join(f"fedrelease.{name}" for name in modules)
    code = f"import sys, json, {names}; print(json.dumps('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert json.loads(done.stdout) is False
