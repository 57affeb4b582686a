"""The folder of a server: who it is, where it listens, whom it knows. Made once by ``fedrelease server init``.

Example::

    server = make_server(Path("server"), name="four-sites", names=("fed.example.org",), now=now)
    server = open_server(Path("server"))
    server.settings.listen                                # '127.0.0.1:9443'
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from fedrelease.deployment.certificates import Authority, new_authority, new_key, private_pem
from fedrelease.deployment.settings import checked, read_toml
from fedrelease.errors import ExperimentError, IdentityError
from fedrelease.files import write_durably
from fedrelease.server.deployment.traces import check_traces

__all__ = ["Server", "Settings", "check_address", "make_server", "open_server", "renew"]

SETTINGS = "server.toml"
OWN_HOSTS = ("127.0.0.1", "localhost")
OF_VOLUMES = ("lost+found",)
"""What a file system has in its root by itself."""
LEAST_PORT, MOST_PORT = 1, 65535


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What ``server.toml`` says.

    Attributes:
        name: of the federation, for people.
        names: host names and addresses by which sites reach the server; they stand in its certificate.
        listen: ``host:port`` where sites come in. releases: ``host:port`` of the release service.
        superlink_port: of Flower's SuperLink, which listens on this machine only.
        wait_s: how long a run waits for all sites to be there before it begins with those that are.
        poll_s: how often answers are looked for.
        message_mb: the largest single piece that is let through; Flower sends arrays in pieces of 5 MB.
        connections: at once, at most; half of them from one address. patience_s: until a connection has said what it wants.
        metrics: ``host:port`` on this machine where Prometheus finds its metrics; empty for none.
        track: trackers that are told about every release, as in ``--track``; a folder is one below the current folder.
        traces: where OpenTelemetry's spans of rounds go: ``file`` (log/traces.jsonl) or a collector's address; empty for none.
    """

    name: str = "federation"
    names: tuple[str, ...] = ("localhost", "127.0.0.1")
    listen: str = "127.0.0.1:9443"
    releases: str = "127.0.0.1:9444"
    superlink_port: int = 9440
    wait_s: float = 120.0
    poll_s: float = 0.2
    message_mb: int = 16
    connections: int = 256
    patience_s: float = 10.0
    metrics: str = ""
    track: tuple[str, ...] = ()
    traces: str = ""


@dataclass(frozen=True, kw_only=True)
class Server:
    """An opened folder of a server."""

    folder: Path
    settings: Settings

    @property
    def authority_file(self) -> Path:
        """The certificate that everything else is signed with; public."""
        return self.folder / "authority.pem"

    @property
    def certificate_file(self) -> Path:
        """The server's certificate; public."""
        return self.folder / "server.pem"

    @property
    def key_file(self) -> Path:
        """The server's private key."""
        return self.folder / "server.key"

    @property
    def secret_file(self) -> Path:
        """What proves to the SuperLink that a ServerApp's process is ours."""
        return self.folder / "executor.secret"

    @property
    def log_folder(self) -> Path:
        """Logs of all processes."""
        return self.folder / "log"

    def authority(self) -> Authority:
        """Who signs certificates.

        Raises:
            IdentityError: its files are missing or not in order.
        """
        try:
            return Authority.read(self.authority_file.read_bytes(), (self.folder / "authority.key").read_bytes())
        except OSError as error:
            raise IdentityError(f"the authority cannot be read: {error.strerror}", value=str(error.filename)) from error


def make_server(folder: Path, *, settings: Settings, now: datetime) -> Server:
    """A new folder with an authority, a certificate and a secret; private files have mode 0600.

    Raises:
        IdentityError: there is a server in it already.
    """
    if (folder / SETTINGS).exists():
        raise IdentityError(
            f"{folder} holds a server already",
            value=str(folder),
            rule="its keys are never made anew: all sites would have to be invited again",
            hint=f"name another folder, or edit {folder / SETTINGS}",
        )
    _check_empty(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    server = Server(folder=folder, settings=settings)
    authority, key = new_authority(settings.name, now=now), new_key()
    certificate = authority.server_certificate(key.public_key(), names=_all_names(settings), now=now)
    write_durably(server.authority_file, authority.certificate.public_bytes(Encoding.PEM))
    write_durably(folder / "authority.key", private_pem(authority.key), mode=0o600)
    write_durably(server.certificate_file, certificate.public_bytes(Encoding.PEM))
    write_durably(server.key_file, private_pem(key), mode=0o600)
    write_durably(server.secret_file, secrets.token_hex(32).encode(), mode=0o600)
    write_durably(folder / SETTINGS, _toml(settings).encode())
    return server


def _check_empty(folder: Path) -> None:
    """Private keys go into a folder of their own, and not among what lies there already."""
    there = sorted(path.name for path in folder.iterdir() if path.name not in OF_VOLUMES) if folder.exists() else []
    if there:
        raise IdentityError(
            f"{folder} is not empty",
            value=", ".join(there[:5]),
            rule="a server's keys lie in a folder of their own",
            hint="name a new one with --folder",
        )


def open_server(folder: Path) -> Server:
    """The server in a folder.

    Raises:
        ExperimentError: there is none, or its settings are not in order.
    """
    path = folder / SETTINGS
    hint = f"make one: fedrelease server init --folder {folder}"
    found = read_toml(path, missing=f"{folder} holds no server", hint=hint)
    return Server(folder=folder, settings=_settings(found, path))


def renew(server: Server, *, now: datetime) -> x509.Certificate:
    """A new certificate for the names that ``server.toml`` says now, by the same authority and for the same key.

    One file changes, and at once: a process that starts meanwhile finds a certificate and a key that belong together.

    Raises:
        IdentityError: the authority or the server's key is missing or not in order, or the authority itself has expired.
        ExperimentError: a name could not stand in a certificate.
    """
    authority = server.authority()
    end = authority.certificate.not_valid_after_utc
    if end < now:
        raise IdentityError(
            "the authority has expired, and nobody would believe what it signs",
            value=end.isoformat(),
            rule="it signs for ten years",
            hint="make a new server in another folder, and invite all sites again",
        )
    try:
        certificate = authority.server_certificate(_own_key(server), names=_all_names(server.settings), now=now)
    except ValueError as error:
        raise ExperimentError(
            f"{server.folder / SETTINGS}: a name cannot stand in a certificate",
            value=", ".join(server.settings.names),
            rule="names are host names in ASCII (xn--... for others) or addresses",
        ) from error
    write_durably(server.certificate_file, certificate.public_bytes(Encoding.PEM))
    return certificate


def _own_key(server: Server) -> ec.EllipticCurvePublicKey:
    """The public half of the server's key."""
    try:
        key = load_pem_private_key(server.key_file.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:  # no part of the file may be shown
        raise IdentityError("the server's key cannot be read", value=str(server.key_file)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IdentityError("the server's key is of another kind", value=type(key).__name__)
    return key.public_key()


def _settings(found: Mapping[str, object], path: Path) -> Settings:
    settings = Settings(**checked(found, Settings, str(path)))
    for key in ("listen", "releases"):
        check_address(str(getattr(settings, key)), f"{path}: {key}")
    if settings.metrics:
        host, _ = check_address(settings.metrics, f"{path}: metrics")
        _check_own(host, settings.metrics, path)
    check_traces(settings.traces, str(path))
    return settings


def _check_own(host: str, given: str, path: Path) -> None:
    if host not in OWN_HOSTS:
        raise ExperimentError(
            f"{path}: metrics would be open to other machines",
            value=given,
            rule=f"its host is {' or '.join(OWN_HOSTS)}: nobody is asked who they are, and nothing is encrypted",
            hint="let a collector on this machine read them, or one elsewhere through a tunnel",
        )


def check_address(text: str, what: str) -> tuple[str, int]:
    """Host and port of ``host:port``.

    Raises:
        ExperimentError: it is none.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not LEAST_PORT <= int(port) <= MOST_PORT:
        raise ExperimentError(f"{what} is no address", value=text, rule="host:port, such as 0.0.0.0:9443")
    return host, int(port)


def _all_names(settings: Settings) -> Sequence[str]:
    """What the certificate is for: also this machine itself, by which the processes here find each other."""
    return tuple(dict.fromkeys((*settings.names, "localhost", "127.0.0.1")))


def _toml(settings: Settings) -> str:
    names = ", ".join(f'"{name}"' for name in settings.names)
    track = ", ".join(f'"{flag}"' for flag in settings.track)
    return f"""# A server of fedrelease. Who may come in stands in sites/, what it is known by in server.pem.
name = "{settings.name}"
names = [{names}]                 # in the certificate; after a change: fedrelease server renew
listen = "{settings.listen}"            # where sites come in
releases = "{settings.releases}"          # where they fetch bases and releases
superlink_port = {settings.superlink_port}                    # on this machine only
wait_s = {settings.wait_s}                         # a run waits so long for all sites before it begins
poll_s = {settings.poll_s}                           # how often answers are looked for
message_mb = {settings.message_mb}                          # the largest piece of a message that is let through
connections = {settings.connections}                      # at once, at most; half of them from one address
patience_s = {settings.patience_s}                     # until a connection has said what it wants
metrics = "{settings.metrics}"                          # for Prometheus, such as 127.0.0.1:9446; empty: none
track = [{track}]                            # who is told about releases too, such as "mlflow" or "tensorboard:runs"
traces = "{settings.traces}"                           # of OpenTelemetry: file, or a collector's https://...; empty: none
"""
