"""A copy of a store in an S3 bucket: files by their digest, and one object ``pointers.json`` that is compared and swapped.

Credentials, region and endpoint come from the environment or from AWS's own files (``AWS_PROFILE``, ``AWS_ENDPOINT_URL`` ...).

Example::

    bucket = Bucket.open("s3://models/four-sites")         # needs fedrelease[s3]
    seen, tag = bucket.look()
    bucket.swap(pointers, tag)                             # False when somebody else was quicker
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

from fedrelease import facts
from fedrelease.errors import StoreError
from fedrelease.server.contents import Pointers

__all__ = ["Bucket", "is_bucket"]

POINTERS = "pointers.json"
TIME = "time-ns"
"""Key of an object's own facts: an attachment's time of change, which is its place among the others."""
TAKEN = ("409", "412", "ConditionalRequestConflict", "PreconditionFailed")


def is_bucket(place: str) -> bool:
    """Whether a place is in S3."""
    return place.startswith("s3://")


@final
@dataclass(frozen=True)
class Bucket:
    """A prefix of a bucket. ``files`` is s3fs's file system, whose results nobody keeps: each look is a new one."""

    files: Any
    prefix: str

    @classmethod
    def open(cls, place: str) -> "Bucket":
        """The bucket behind ``s3://bucket/prefix``.

        Raises:
            StoreError: no such place, or what talks to S3 is not installed.
        """
        prefix = place.removeprefix("s3://").rstrip("/")
        if not prefix.partition("/")[0]:
            raise StoreError("no bucket", value=place, rule="s3://bucket or s3://bucket/prefix")
        if find_spec("s3fs") is None:
            raise StoreError("S3 needs s3fs", value=place, hint="pip install 'fedrelease[s3]'")
        from s3fs import S3FileSystem

        return cls(S3FileSystem(use_listings_cache=False, skip_instance_cache=True), prefix)

    def pointers(self) -> Pointers | None:
        """What it says now; None where nothing was ever pushed."""
        return self.look()[0]

    def look(self) -> tuple[Pointers | None, str | None]:
        """The pointers and the tag of just these bytes, or an older one, with which a swap is refused."""
        with self._asking():
            try:
                tag = str(self.files.info(self._key(POINTERS), refresh=True)["ETag"])
                data = self.files.cat_file(self._key(POINTERS))
            except FileNotFoundError:
                return None, None
        return facts.from_bytes(Pointers, data), tag

    def swap(self, pointers: Pointers, tag: str | None) -> bool:
        """Replace the pointers if they still have this tag, or make them if there are none; whether that was so."""
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        try:
            self._put(POINTERS, facts.to_bytes(pointers), **condition)
        except OSError as error:
            if _code(error) in TAKEN:
                return False
            raise self._refused(error) from error
        return True

    def contents(self) -> dict[str, int]:
        """Every file in it but the pointers, with its bytes."""
        with self._asking():
            try:
                found = self.files.find(self.prefix, detail=True, refresh=True)
            except FileNotFoundError:
                return {}
        named = {key.removeprefix(f"{self.prefix}/"): int(told["size"]) for key, told in found.items()}
        return {name: size for name, size in named.items() if name != POINTERS}

    def fetch(self, name: str, target: Path) -> int | None:
        """Download a file."""
        with self._asking():
            self.files.get_file(self._key(name), str(target))
            told = self.files.metadata(self._key(name)) if name.startswith("attach/") else {}
        time = {key.replace("_", "-"): value for key, value in told.items()}.get(TIME, "")
        return int(time) if time.isdecimal() else None

    def send(self, name: str, path: Path) -> None:
        """Upload a file; the object appears when all of it is there."""
        with self._asking():
            if name.startswith("attach/"):
                self._put(name, path.read_bytes(), Metadata={TIME: str(path.stat().st_mtime_ns)})
            else:
                self.files.put_file(str(path), self._key(name))

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}"

    def _put(self, name: str, data: bytes, **options: object) -> None:
        bucket, _, key = self._key(name).partition("/")
        self.files.call_s3("put_object", Bucket=bucket, Key=key, Body=data, **options)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn what S3 and its client say into a refusal with a way out."""
        from botocore.exceptions import BotoCoreError

        try:
            yield
        except FileNotFoundError as error:
            raise StoreError("no such bucket or object", value=f"s3://{self.prefix}", hint="make the bucket") from error
        except (OSError, BotoCoreError) as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> StoreError:
        """Its message never holds a credential: of the client's error only its kind and S3's code are told."""
        code = _code(error) or type(error).__name__
        return StoreError(
            f"S3 refuses: {code}",
            value=f"s3://{self.prefix}",
            rule="credentials come from the environment or from AWS's own files",
            hint="see AWS_PROFILE, AWS_ACCESS_KEY_ID, AWS_REGION and AWS_ENDPOINT_URL, and who may write to the bucket",
        )


def _code(error: BaseException | None) -> str | None:
    """S3's code for what happened."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__ or error.__context__
    return None
