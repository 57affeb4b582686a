"""A store in two places: only what is missing travels, pointers last, and no generation is ever lost."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import cast
from uuid import uuid4

import pytest
from faults import Fault, Killed, disk
from full_examples import make_full_store, publish_full
from release_examples import TIME, make_store, publish_round

from fedrelease.errors import DamagedRelease, StoreError
from fedrelease.server.attachments import attachments, put_attachment
from fedrelease.server.bucket import Bucket
from fedrelease.server.contents import Pointers, check_name, pointers_of
from fedrelease.server.fsck import fsck
from fedrelease.server.lifecycle import By, promote
from fedrelease.server.repack import repack, to_pack
from fedrelease.server.store import Store
from fedrelease.server.transfer import pull, push
from fedrelease.server.verify import verify

ADA = By(actor="ada", reason="because", time=TIME)
PASSWORD = "not-a-real-secret-but-a-password"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A real S3 server on this machine."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A prefix of a new bucket; the environment says where the server is and who asks."""
    from s3fs import S3FileSystem

    said = {"AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "ada", "AWS_SECRET_ACCESS_KEY": PASSWORD}
    nobody = {"AWS_CONFIG_FILE": str(tmp_path / "none"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none")}
    for name, value in {**said, **nobody, "AWS_REGION": "eu-central-1", "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    name = f"models-{uuid4().hex}"
    S3FileSystem(skip_instance_cache=True).mkdir(name)
    return f"s3://{name}/four-sites"


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Somewhere that nothing was pushed to yet."""
    return str(tmp_path / "there") if request.param == "folder" else cast(str, request.getfixturevalue("bucket"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three releases, a promotion, two attachments in an order that is not that of their names."""
    store = make_store(tmp_path / "releases", rounds=2)
    with store.lock():
        promote(store, "0.1.1", to="stable", by=ADA)
        for word in (b"first report", b"second report", b"third report"):
            put_attachment(store.folder, store.find("0.1.1").digest, "gate-report", word)
    return store


def truth(folder: Path) -> dict[str, bytes]:
    """All that a store is."""
    rooms = ("blobs", "packed", "versions", "attach", "channels.json", "log.jsonl", "store.json")
    every = (path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in every}
    return {name: path.read_bytes() for name, path in named.items() if name.split("/")[0] in rooms}


def reports(folder: Path, store: Store) -> list[bytes]:
    return [found.read() for found in attachments(folder, store.find("0.1.1").digest, "gate-report")]


def test_what_was_pushed_and_pulled_is_the_same_store_to_the_last_byte(
    store: Store, place: str, tmp_path: Path
) -> None:
    pushed = push(store, place)
    pulled = pull(place, tmp_path / "here")
    assert truth(tmp_path / "here") == truth(store.folder)
    assert (pushed.lines, pulled.lines, pushed.generation, pulled.generation) == (4, 4, 4, 4)
    assert fsck(Store.open(tmp_path / "here")).flaws == ()
    assert reports(tmp_path / "here", store) == [b"first report", b"second report", b"third report"]


def test_only_what_is_missing_travels_and_a_second_time_nothing_does(store: Store, place: str, tmp_path: Path) -> None:
    push(store, place)
    assert push(store, place).files == push(store, place).lines == 0
    pull(place, tmp_path / "here")
    with store.lock():
        publish_round(store, 3)
    again = push(store, place)
    # adapter, memory and rng of the round (its config is there), the manifest, and generation 4, which is a blob now
    assert (again.files, again.lines, again.generation) == (5, 1, 5)
    pull(place, tmp_path / "here")
    assert truth(tmp_path / "here") == truth(store.folder)


def test_an_attachment_that_was_added_later_travels_though_no_pointer_moved(
    store: Store, place: str, tmp_path: Path
) -> None:
    push(store, place)
    pull(place, tmp_path / "here")
    with store.lock():
        put_attachment(store.folder, store.find("0.1.1").digest, "gate-report", b"looked at again")
    assert (push(store, place).files, push(store, place).files) == (1, 0)
    assert pull(place, tmp_path / "here").files == 1
    assert reports(tmp_path / "here", store)[-1] == b"looked at again"


def test_a_dry_run_counts_what_would_travel_and_writes_nothing(store: Store, place: str, tmp_path: Path) -> None:
    counted = push(store, place, dry_run=True)
    assert not (tmp_path / "there").exists()
    assert push(store, place) == counted
    assert pull(place, tmp_path / "here", dry_run=True).files == pull(place, tmp_path / "here").files


def test_a_push_that_would_lose_a_generation_is_refused_and_says_both(store: Store, place: str, tmp_path: Path) -> None:
    push(store, place)
    other = Store.open(shutil.copytree(store.folder, tmp_path / "other"))
    with store.lock():
        promote(store, "0.1.2", to="beta", by=ADA)
    push(store, place)
    with other.lock():
        promote(other, "0.0.0", to="beta", by=ADA)
        promote(other, "0.1.1", to="beta", by=ADA)
    for dry_run in (True, False):
        with pytest.raises(
            StoreError, match=r"other is at generation 6 and .* at generation 5, and they went different"
        ):
            push(other, place, dry_run=dry_run)
    with pytest.raises(StoreError, match="different ways after line 4 "):
        pull(place, other.folder)
    pull(place, tmp_path / "here")
    assert truth(tmp_path / "here") == truth(store.folder), "what was pushed first is all there"


def test_a_push_to_a_place_that_is_ahead_is_refused_and_a_pull_from_one_that_is_behind_does_nothing(
    store: Store, place: str, tmp_path: Path
) -> None:
    push(store, place)
    behind = Store.open(shutil.copytree(store.folder, tmp_path / "behind"))
    with store.lock():
        publish_round(store, 3)
    assert pull(place, store.folder).lines == 0
    push(store, place)
    with pytest.raises(StoreError, match=r"at generation 5 and .*behind only at generation 4") as refused:
        push(behind, place)
    assert refused.value.hint == f"fedrelease pull {place}"
    assert pull(place, behind.folder).lines == 1 and truth(behind.folder) == truth(store.folder)


def test_packed_releases_travel_packed_and_a_copy_that_has_them_raw_needs_no_other(place: str, tmp_path: Path) -> None:
    store = make_full_store(tmp_path / "releases", rounds=2)
    push(store, place)
    pull(place, tmp_path / "raw")
    with store.lock():
        list(repack(store, to_pack(store)))
        publish_full(store, 2)
    assert push(store, place).files == 3, "the new release's weights and manifest, and the generation of its move"
    pull(place, tmp_path / "raw")
    push(store, str(tmp_path / "packed"))
    for folder in (tmp_path / "raw", tmp_path / "packed"):
        assert fsck(Store.open(folder)).flaws == ()
    assert len(list((tmp_path / "packed" / "packed" / "sha256").iterdir())) == 2
    assert (tmp_path / "packed" / "store.json").read_bytes() == b'{"layout":3}'


def test_a_kill_at_any_call_of_a_pull_leaves_a_whole_store_and_the_next_pull_goes_on(
    store: Store, tmp_path: Path
) -> None:
    with store.lock():
        publish_round(store, 3)
    with disk(Fault(None)):
        base = make_store(tmp_path / "base", rounds=1)
        base_folder = shutil.copytree(base.folder, tmp_path / "start")
    lines, struck, instant = [], True, 1
    while struck:
        folder = shutil.copytree(base_folder, tmp_path / "here")
        struck = False
        with disk(Fault(instant)):
            try:
                pull(str(store.folder), folder)
            except Killed:
                struck = True
        with disk(Fault(None)):
            with Store.open(folder).lock():
                pass
            assert verify(Store.open(folder)).ok
            lines.append(len(pointers_of(folder).lines))
            pull(str(store.folder), folder)
        assert truth(folder) == truth(store.folder) and fsck(Store.open(folder)).ok
        shutil.rmtree(folder)
        instant += 8
    assert lines == sorted(lines) and set(lines) == {2, 3, 4, 5}


def test_a_push_to_s3_that_was_interrupted_before_its_pointers_left_nothing_to_see_and_goes_on(
    store: Store, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sent = Bucket.send, []

    def send(self: Bucket, name: str, path: Path) -> None:
        if len(sent) == 5:
            raise KeyboardInterrupt
        sent.append(name)
        real(self, name, path)

    monkeypatch.setattr(Bucket, "send", send)
    with pytest.raises(KeyboardInterrupt):
        push(store, bucket)
    with pytest.raises(StoreError, match="nothing was pushed there yet"):
        pull(bucket, tmp_path / "here")
    monkeypatch.setattr(Bucket, "send", real)
    assert push(store, bucket).files == len(Bucket.open(bucket).contents()) - 5
    pull(bucket, tmp_path / "here")
    assert truth(tmp_path / "here") == truth(store.folder)


def test_the_server_swaps_pointers_only_for_who_saw_the_last_ones(bucket: str) -> None:
    one, other = Bucket.open(bucket), Bucket.open(bucket)
    assert one.look() == (None, None)
    assert one.swap(Pointers(log="a\n"), None)
    assert not other.swap(Pointers(log="b\n"), None), "If-None-Match"
    seen, tag = other.look()
    assert seen == Pointers(log="a\n")
    assert one.swap(Pointers(log="a\nc\n"), tag)
    assert not other.swap(Pointers(log="a\nd\n"), tag), "If-Match"
    assert one.pointers() == other.pointers() == Pointers(log="a\nc\n")


def test_of_two_that_push_at_the_same_time_exactly_one_wins_and_the_other_is_told(
    store: Store, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(store, bucket)
    folders = [shutil.copytree(store.folder, tmp_path / version) for version in ("0.1.1", "0.1.2")]
    for folder in folders:
        opened = Store.open(folder)
        with opened.lock():
            promote(opened, folder.name, to="beta", by=ADA)
    both, real = Barrier(2), Bucket.swap

    def swap(self: Bucket, pointers: Pointers, tag: str | None) -> bool:
        both.wait(60)  # each has looked, and neither has swapped
        return real(self, pointers, tag)

    monkeypatch.setattr(Bucket, "swap", swap)
    with ThreadPoolExecutor(2) as pool:
        said = sorted(pool.map(lambda folder: outcome(folder, bucket), folders), key=len)
    assert said[0] == "pushed" and "different ways after line 4" in said[1]
    assert "is at generation 5 and " in said[1] and "at generation 5, and" in said[1]
    pull(bucket, tmp_path / "here")
    assert truth(tmp_path / "here") in [truth(folder) for folder in folders]


def outcome(folder: Path, bucket: str) -> str:
    try:
        push(Store.open(folder), bucket)
    except StoreError as error:
        return str(error)
    return "pushed"


def test_a_refusal_of_s3_names_the_bucket_and_the_way_out_and_no_secret(
    store: Store, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreError, match="no such bucket or object|S3 refuses: NoSuchBucket") as refused:
        push(store, "s3://nobody-has-this-bucket/x")
    assert "s3://nobody-has-this-bucket/x" in str(refused.value) and PASSWORD not in str(refused.value)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreError, match="S3 refuses: NoCredentials") as refused:
        push(store, bucket)
    assert "AWS_PROFILE" in refused.value.hint


def test_what_came_with_other_bytes_than_its_name_promises_is_refused(
    store: Store, bucket: str, tmp_path: Path
) -> None:
    push(store, bucket)
    opened = Bucket.open(bucket)
    name = next(name for name in opened.contents() if name.startswith("blobs/"))
    (tmp_path / "other").write_bytes(b"other bytes")
    opened.send(name, tmp_path / "other")
    with pytest.raises(DamagedRelease, match="other bytes came than were sent"):
        pull(bucket, tmp_path / "here")
    assert Store.open(tmp_path / "here").head() is None and fsck(Store.open(tmp_path / "here")).ok


@pytest.mark.parametrize(
    "name", ["../x", "blobs/sha256/../../x", "channels.json", "keys/../x", "attach/x/y.json", "/etc/x"]
)
def test_a_source_can_name_no_file_but_a_stores(name: str) -> None:
    with pytest.raises(StoreError, match="no file of a store"):
        check_name(name)


def test_a_store_is_not_copied_to_itself_nor_to_a_folder_that_holds_something_else(
    store: Store, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="not copied to itself"):
        push(store, str(store.folder / ".." / "releases"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(StoreError, match="holds 'photo.jpg'"):
        push(store, str(tmp_path / "full"))
    with pytest.raises(StoreError, match="no release store here"):
        pull(str(tmp_path / "full"), tmp_path / "here")
