"""The folder of a site: its key, its certificate, its settings, its ledger. Made once by ``fedrelease site init``.

Example::

    site = open_site_folder(Path("amazon"))
    site.settings.source, site.home                        # 'reviews.csv', where the ledger lies
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from fedrelease.client.policy import Policy, read_policy
from fedrelease.deployment.settings import checked, read_toml
from fedrelease.errors import ExperimentError
from fedrelease.files import write_durably

__all__ = ["SiteFolder", "SiteSettings", "open_site_folder", "site_toml"]

SETTINGS = "site.toml"
LISTS = {"data": ("source", "text", "label")}


@dataclass(frozen=True, kw_only=True)
class SiteSettings:
    """What ``site.toml`` says.

    Attributes:
        site: the name that the server knows this site by. server: ``host:port``. releases: of the release service.
        federation: its name, for people. bundle: digest of the Flower app that this site agreed to.
        source: a .csv, .jsonl, .parquet or .conll file, or a ``datasets`` folder; relative to the site's folder.
        text, label: its columns.
        base: a folder with the base, where it is not in the cache under its name; empty otherwise.
        noise: ``secure``: noise from the system's generator. ``seeded``, for demonstrations, repeats and protects nobody.
        port: of this site's own processes among themselves, on this machine only.
        poll_s: how often the server is asked for work.
        renew_days: ``site start`` renews the certificate when fewer are left; 0: it does not.
        policy: what a server may ask of this site.
    """

    site: str
    server: str
    releases: str = ""
    federation: str = ""
    bundle: str = ""
    source: str = ""
    text: str = "text"
    label: str = "label"
    base: str = ""
    noise: str = "secure"
    port: int = 9094
    poll_s: float = 0.5
    renew_days: float = 14.0
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True, kw_only=True)
class SiteFolder:
    """An opened folder of a site."""

    folder: Path
    settings: SiteSettings

    @property
    def key_file(self) -> Path:
        """The private key, in OpenSSH's form; it never leaves this machine."""
        return self.folder / "site.key"

    @property
    def certificate_file(self) -> Path:
        """What the server's authority said of the key."""
        return self.folder / "site.pem"

    @property
    def authority_file(self) -> Path:
        """The only authority that this site trusts."""
        return self.folder / "authority.pem"

    @property
    def secret_file(self) -> Path:
        """Between this site's own processes."""
        return self.folder / "executor.secret"

    @property
    def node_file(self) -> Path:
        """The number that the server gave to this site's SuperNode, while it is connected."""
        return self.folder / "node"

    @property
    def home(self) -> Path:
        """What the site keeps between rounds: its ledger first of all."""
        return self.folder / "home"

    @property
    def base_file(self) -> Path:
        """The digest of the base that this site trained first: it trains no other, unless its policy names some."""
        return self.folder / "base.digest"

    def pinned_base(self) -> str | None:
        """What stands in it; ``None`` before the first training."""
        return self.base_file.read_text(encoding="ascii").strip() if self.base_file.exists() else None

    def pin_base(self, digest: str) -> None:
        """Keep to a base from now on, where none is kept to yet."""
        if not self.base_file.exists():
            write_durably(self.base_file, f"{digest}\n".encode())

    @property
    def prepared(self) -> Path:
        """Tokenised rows."""
        return self.folder / "prepared"

    @property
    def log_folder(self) -> Path:
        """Logs of its processes."""
        return self.folder / "log"


def open_site_folder(folder: Path) -> SiteFolder:
    """The site in a folder.

    Raises:
        ExperimentError: there is none, or its settings are not in order.
    """
    path = folder / SETTINGS
    hint = f"make one: fedrelease site init INVITATION --folder {folder}"
    found = read_toml(path, missing=f"{folder} holds no site", hint=hint)
    return SiteFolder(folder=folder, settings=_settings(found, path))


def _settings(found: Mapping[str, object], path: Path) -> SiteSettings:
    flat: dict[str, object] = {}
    policy = read_policy(found.get("policy", {}), str(path))
    for key, value in found.items():
        if key == "policy":
            continue
        flat |= value if key in LISTS and isinstance(value, dict) else {key: value}
    chosen = checked(flat, SiteSettings, str(path), without=("policy",))
    for key in ("site", "server"):
        if key not in flat:
            raise ExperimentError(f"{path}: {key} is missing", rule="fedrelease site init wrote it")
    settings = SiteSettings(**chosen, policy=policy)
    if settings.noise not in ("secure", "seeded"):
        raise ExperimentError(
            f"{path}: unknown noise", value=settings.noise, rule="secure, or seeded for demonstrations"
        )
    if not settings.renew_days >= 0:
        raise ExperimentError(f"{path}: renew_days is out of bounds", value=settings.renew_days, rule="at least 0")
    return settings


def site_toml(settings: SiteSettings) -> str:
    """The file as ``site init`` writes it."""
    return f"""# A site of fedrelease. This folder holds its private key and its ledger: it belongs to you, not to the server.
site = "{settings.site}"
federation = "{settings.federation}"
server = "{settings.server}"
releases = "{settings.releases}"
bundle = "{settings.bundle}"    # what this site agreed to run; it runs its own installed code, and no other
port = {settings.port}                   # between this site's own processes, on this machine only
poll_s = {settings.poll_s}                  # how often the server is asked for work
renew_days = {settings.renew_days}             # site start renews the certificate when fewer days are left; 0: it does not
noise = "{settings.noise}"              # seeded is for demonstrations: it protects nobody

[data]
source = "{settings.source}"    # a .csv, .jsonl, .parquet or .conll file, or a folder of the datasets library
text = "{settings.text}"
label = "{settings.label}"

# What the server may ask of this site, whatever a message says. `fedrelease site policy` says it in words;
# `fedrelease site policy EXPERIMENT.toml` says whether an experiment keeps to it.
[policy]
{_policy_lines(settings.policy)}
"""


POLICY_NOTES = {
    "unit": "the least protection; none would let a server train without privacy",
    "epsilon": "at most, over everything that is ever spent on these rows",
    "metrics": "of the hold-out: exact, noised or withheld; the stricter of this and the experiment's",
    "tell_items": "what was said of each row of the hold-out",
    "bases": "digests; none = the first base that this site trains, and no other",
    "directives": "tell_loss and tell_fisher are computed from rows without noise",
    "steps": "of one round",
    "seconds": "of one round",
    "megabytes": "of one message",
}


def _policy_lines(policy: Policy) -> str:
    lines = []
    for own in fields(policy):
        note = POLICY_NOTES.get(own.name)
        lines.append(f"{own.name} = {_toml_value(getattr(policy, own.name))}" + (f"    # {note}" if note else ""))
    return "\n".join(lines)


def _toml_value(value: object) -> str:
    """A value of the policy: TOML writes lists, texts and truth as JSON does."""
    return json.dumps(value)
