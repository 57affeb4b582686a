"""What a site fetches from the release service: the base, into the site's own folder, by its digest.

Example::

    with connect_releases(site) as client:
        folder = fetch_base(client, site)                  # <site>/bases/<digest>, whole or not there
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from fedrelease.client.deployment.enrol import site_key
from fedrelease.client.deployment.folder import SiteFolder
from fedrelease.deployment.certificates import private_pem
from fedrelease.deployment.download import Progress, download
from fedrelease.deployment.release_client import Identity, ReleaseClient
from fedrelease.errors import DamagedRelease, FetchError, IdentityError
from fedrelease.files import canonical_bytes, digest_bytes, sync_folder
from fedrelease.manifest import check_sha256

__all__ = ["connect_releases", "fetch_base", "fetched_base_folder", "partial_folder"]


def connect_releases(site: SiteFolder, *, patience_s: float = 60.0) -> ReleaseClient:
    """A client of the release service in the site's name. The key is converted in memory, and is nowhere else.

    Raises:
        IdentityError: the site's files cannot be read, or the invitation told of no such service.
    """
    if not site.settings.releases:
        raise IdentityError(
            "this site knows of no release service", hint=f"say `releases` in {site.folder / 'site.toml'}"
        )
    try:
        identity = Identity(
            address=site.settings.releases,
            authority=site.authority_file.read_bytes(),
            certificate=site.certificate_file.read_bytes(),
            key=private_pem(site_key(site)),
        )
    except OSError as error:
        what = f"the site's identity cannot be read: {error.strerror}"
        raise IdentityError(what, value=str(error.filename), hint="fedrelease site init INVITATION") from error
    return ReleaseClient(identity, patience_s=patience_s)


def partial_folder(site: SiteFolder) -> Path:
    """Where files lie that are not whole yet."""
    return site.folder / "partial"


def fetched_base_folder(site: SiteFolder, digest: str) -> Path | None:
    """The folder of a base that was fetched, if it was.

    Raises:
        StoreError: no digest, which may come over the network.
    """
    folder = site.folder / "bases" / check_sha256(digest)
    return folder if folder.is_dir() else None


def fetch_base(
    client: ReleaseClient, site: SiteFolder, *, digest: str = "", progress: Progress | None = None
) -> tuple[str, Path]:
    """The digest and the folder of a base, fetched if it is not there; the run's base without a ``digest``.

    Guarantees: the folder appears in one rename, when every file of it has its sha256 and all together have the digest.

    Raises:
        DamagedRelease: what the service says or sends is not what the digest promises.
        FedreleaseError: it refuses, or cannot be reached.
    """
    told, files = client.base(digest)
    check_sha256(told)
    if digest not in ("", told) or told != _digest({file.name: file.sha256 for file in files}):
        raise DamagedRelease("the list of the base's files is not what its digest promises", value=told)
    there = fetched_base_folder(site, told)
    if there is not None:
        return told, there
    names = {_checked(file.name): file.sha256 for file in files}
    paths = download(client, files, partial_folder(site), progress=progress)
    return told, _put_in_place(names, paths, site.folder / "bases" / told)


def _digest(files: Mapping[str, str]) -> str:
    """As a base takes it of its files."""
    return digest_bytes(canonical_bytes(dict(files)))


def _checked(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or name != "/".join(parts) or {"..", "/"} & set(parts) or "\\" in name or "\0" in name:
        raise FetchError("no file of a base", value=name[:200], rule="a relative path below it, without '..'")
    return name


def _put_in_place(names: Mapping[str, str], paths: Mapping[str, Path], folder: Path) -> Path:
    """Link every file under its name into a new folder, and give that its name; then the digests' names can go."""
    new = folder.with_name(f".{folder.name}.new")
    for name, sha256 in names.items():
        target = new / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.hardlink_to(paths[sha256])  # two files of a base may have the same bytes
        sync_folder(target.parent)
    new.rename(folder)
    sync_folder(folder.parent)
    for path in paths.values():
        path.unlink(missing_ok=True)
    return folder
