"""Fetch blobs by their sha256 into a folder: several at once, each from where it stopped, named only when every byte is right.

Example::

    download(client, files, folder, progress=lambda done, total: ...)        # folder/<sha256>, and <sha256>.part meanwhile
"""

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias, final

import grpc

from fedrelease.deployment.release_client import ReleaseClient, RemoteFile
from fedrelease.errors import DamagedRelease
from fedrelease.files import digest_file, sync_folder
from fedrelease.manifest import check_sha256

__all__ = ["STREAMS", "Progress", "download"]

STREAMS = 3
TRIES = 2
"""Whole tries of a file whose bytes turn out to be wrong: a damaged part begins anew once, a damaged source stays so."""
PIECE_BYTES = 1 << 20
Progress: TypeAlias = Callable[[int, int], None]
"""Told bytes so far and bytes in all, of everything that was asked for; by several threads, one at a time."""


def download(
    client: ReleaseClient,
    files: Sequence[RemoteFile],
    folder: Path,
    *,
    streams: int = STREAMS,
    progress: Progress | None = None,
) -> dict[str, Path]:
    """The paths of all files by sha256. One process at a time works in a folder.

    Guarantees: a file has its name only when its bytes have that sha256 and are on disk; what was there of it is not fetched
    again; no file is held in memory.

    Raises:
        DamagedRelease: the service sends other bytes than it promised, twice.
        FedreleaseError: it refuses, or cannot be reached for too long.
        OSError: the disk refuses.
    """
    wanted = {check_sha256(file.sha256): file for file in files}
    folder.mkdir(parents=True, exist_ok=True)
    work = _Work(client, folder, _Tally(sum(file.size for file in wanted.values()), progress))
    with ThreadPoolExecutor(max_workers=max(1, min(streams, len(wanted)))) as threads:
        futures = [threads.submit(work.fetch, file) for file in wanted.values()]
        try:
            for future in futures:
                future.result()
        except BaseException:
            work.stop.set()
            for future in futures:
                future.cancel()
            raise
    sync_folder(folder)
    return {sha256: folder / sha256 for sha256 in wanted}


@final
class _Tally:
    """Bytes so far, for whoever watches."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total, self._done, self._progress, self._lock = total, 0, progress, threading.Lock()

    def add(self, size: int) -> None:
        with self._lock:
            self._done += size
            if self._progress is not None:
                self._progress(self._done, self._total)


class _Stopped(Exception):
    """Another file failed, or the user has had enough."""


@final
class _Work:
    def __init__(self, client: ReleaseClient, folder: Path, tally: _Tally) -> None:
        self._client, self._folder, self._tally = client, folder, tally
        self.stop = threading.Event()

    def fetch(self, file: RemoteFile) -> None:
        """One file, whatever is there of it."""
        done, part = self._folder / file.sha256, self._folder / f"{file.sha256}.part"
        if done.is_file() and digest_file(done) == file.sha256:
            self._tally.add(file.size)
            return
        for _ in range(TRIES):
            counted = self._once(file, part)
            if counted is None:
                part.replace(done)
                return
            part.unlink()
            self._tally.add(-counted)
        raise DamagedRelease(
            "the bytes that came are not those of this digest",
            value=file.sha256,
            rule="what is fetched has the sha256 that it is asked for by",
            hint="tell the operator: fedrelease fsck says what is damaged there",
        )

    def _once(self, file: RemoteFile, part: Path) -> int | None:
        """Fetch to the end; the bytes that were counted if they are wrong, and None if they are right and on disk."""
        seen, patience = hashlib.sha256(), self._client.patience(self.stop)
        with part.open("ab+") as target:
            size = self._add_old(target.fileno(), seen)
            while size < file.size:
                try:
                    for data in self._client.read(file.sha256, size):
                        if self.stop.is_set():
                            raise _Stopped
                        target.write(data)
                        seen.update(data)
                        size += len(data)
                        self._tally.add(len(data))
                        patience.reset()
                        if size > file.size:
                            return size
                except grpc.RpcError as error:
                    target.flush()
                    patience.wait(error, self._client.address)
                else:
                    break  # the service says that this is all
            if size != file.size or seen.hexdigest() != file.sha256:
                return size
            target.flush()
            os.fsync(target.fileno())
        return None

    def _add_old(self, handle: int, seen: "hashlib._Hash") -> int:
        """Hash what was there before; its bytes."""
        size = 0
        while data := os.pread(handle, PIECE_BYTES, size):
            seen.update(data)
            size += len(data)
        self._tally.add(size)
        return size
