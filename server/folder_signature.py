"""Sign a folder, such as an exported release, so that the public tool ``model_signing`` verifies it.

The file is a Sigstore bundle v0.3 (https://github.com/sigstore/protobuf-specs, sigstore_bundle.proto) with a DSSE envelope over
an in-toto statement of the type ``https://model_signing/signature/v1.0``, as
https://github.com/sigstore/model-transparency describes it.

Example::

    sign_folder(Path("export"), own_key(keys_folder(), "release"))
    # model_signing verify key export --signature export/model.sig --public_key releases/keys/release-6a9d002ea17325ad.pem
"""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from fedrelease.errors import SignatureError
from fedrelease.files import Json, canonical_bytes, digest_file, write_durably
from fedrelease.server.dsse import seal
from fedrelease.server.keys import PrivateKey

__all__ = ["FOLDER_SIGNATURE", "sign_folder"]

FOLDER_SIGNATURE = "model.sig"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
IGNORED = (".git", ".gitattributes", ".github", ".gitignore", FOLDER_SIGNATURE)
"""What the tool leaves out by itself: a clone of a signed folder verifies too."""


def sign_folder(folder: Path, key: PrivateKey) -> Path:
    """Write ``model.sig`` into the folder; an older one is replaced.

    Guarantees: the signature is over the path and the sha256 of every file; a file that is changed, added or taken away later
    does not verify. The name of the folder is no part of what is verified: it may be moved.

    Raises:
        SignatureError: there is no such folder, it has no file, or it has a link or something else that is no plain file.
    """
    resources = [(path.relative_to(folder).as_posix(), digest_file(path)) for path in _files(folder)]
    if not resources:
        hint = "name the folder of an export"
        raise SignatureError("there is nothing to sign", value=str(folder), rule="a folder with files", hint=hint)
    statement = canonical_bytes(_statement(folder.resolve().name, sorted(resources)))
    bundle = {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": key.public.fingerprint}, "tlogEntries": []},
        "dsseEnvelope": json.loads(seal(statement, key, keyid="")),
    }
    path = folder / FOLDER_SIGNATURE
    write_durably(path, canonical_bytes(bundle))
    return path


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.relative_to(folder).parts[0] in IGNORED:
            continue
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            hint = "put the file itself there"
            raise SignatureError("a folder with links cannot be signed", value=str(path), rule="plain files", hint=hint)
        if path.is_file():
            yield path


def _statement(name: str, resources: list[tuple[str, str]]) -> Json:
    """The subject's digest is the sha256 of all files' digests, as bytes, in the order of ``resources``."""
    together = sha256(b"".join(bytes.fromhex(digest) for _, digest in resources)).hexdigest()
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": together}}],
        "predicateType": PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": list(IGNORED),
            },
            "resources": [{"name": path, "algorithm": "sha256", "digest": digest} for path, digest in resources],
        },
    }
