"""How a server stands: who runs, who was invited, who is there, how far the run is, what went wrong. Read, never changed.

Example::

    status = read_status(open_server(Path("server")), now=datetime.now(UTC))
    status.running, status.sites[0].connected            # True, False

From the SuperLink where one answers, and from logs and certificates else: it works as well when nothing runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import psutil

from fedrelease.deployment.certificates import certificate_of, days_left
from fedrelease.errors import IdentityError
from fedrelease.files import Json
from fedrelease.server.deployment.connected import Presence, connected
from fedrelease.server.deployment.folder import Server
from fedrelease.server.deployment.observed import NewestRelease, Observed, Told, observe
from fedrelease.server.deployment.register import Admitted, admitted, open_invitations
from fedrelease.server.lock import is_held

__all__ = ["Certificate", "OneSite", "Process", "Progress", "ServerStatus", "read_status", "status_facts"]


@dataclass(frozen=True, kw_only=True)
class Process:
    """One of the server's programs. ``restarts``: since the server was started."""

    name: str
    pid: int | None
    since: str
    restarts: int
    alive: bool


@dataclass(frozen=True, kw_only=True)
class OneSite:
    """An admitted site. ``connected`` is ``None`` where no SuperLink answers; ``answer`` is of the round in progress.

    ``certificate_days`` until its certificate ends, as the register has it.
    """

    site: str
    fingerprint: str
    admitted: str
    certificate_days: float | None
    connected: bool | None
    last_seen: str | None
    answer: str | None
    refused: str | None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The round in progress, or the last one where ``ended``; ``waiting`` are those who have not answered its step."""

    version: str
    phase: str
    round: int
    rounds: int | None
    step: str
    since: str
    ended: bool
    answered: Sequence[str]
    refused: Sequence[str]
    waiting: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """When a certificate of the server's own ends, in ISO 8601 and in days from now."""

    name: str
    expires: str
    days: float


@dataclass(frozen=True, kw_only=True)
class ServerStatus:
    """Everything, as of ``time``. Totals are over what the logs still have."""

    folder: str
    name: str
    listen: str
    time: str
    running: bool
    pid: int | None
    since: str | None
    store: str | None
    run: str | None
    run_since: str | None
    processes: Sequence[Process]
    invitations: Mapping[str, str]
    sites: Sequence[OneSite]
    round: Progress | None
    newest: NewestRelease | None
    released: int
    held: int
    epsilon: float | None
    bytes_up: int
    bytes_down: int
    seconds_per_round: float | None
    refusals: Sequence[Told]
    problems: Sequence[Told]
    certificates: Sequence[Certificate]


def read_status(server: Server, *, now: datetime) -> ServerStatus:
    """How the server of a folder stands."""
    observed, running = observe(server.log_folder), is_held(server.folder / ".lock")
    there, totals = connected(server) if running else None, observed.totals
    return ServerStatus(
        folder=str(server.folder),
        name=server.settings.name,
        listen=server.settings.listen,
        time=now.isoformat(timespec="seconds"),
        running=running,
        pid=observed.pid if running else None,
        since=observed.started if running else None,
        store=observed.store,
        run=observed.run if running else None,
        run_since=observed.run_since if running else None,
        processes=_processes(observed, running=running),
        invitations=open_invitations(server),
        sites=[_site(one, observed, there, now) for one in admitted(server).values()],
        round=_progress(observed),
        newest=observed.newest,
        released=totals.released,
        held=totals.held,
        epsilon=observed.epsilon,
        bytes_up=totals.bytes_up,
        bytes_down=totals.bytes_down,
        seconds_per_round=totals.round_seconds / totals.rounds if totals.rounds else None,
        refusals=tuple(observed.refusals),
        problems=tuple(observed.problems),
        certificates=_certificates(server, now),
    )


def status_facts(status: ServerStatus) -> Mapping[str, Json]:
    """The status as plain facts, for JSON."""
    return asdict(status)


def _processes(observed: Observed, *, running: bool) -> Sequence[Process]:
    return [
        Process(
            name=name,
            pid=one.pid,
            since=one.since,
            restarts=one.starts - 1,
            alive=running and one.pid is not None and psutil.pid_exists(one.pid),
        )
        for name, one in observed.processes.items()
    ]


def _site(one: Admitted, observed: Observed, there: Mapping[str, Presence] | None, now: datetime) -> OneSite:
    presence, last_seen, answer, refused = (there or {}).get(one.site), observed.last_seen.get(one.site), None, None
    if observed.round is not None and one.site in observed.round.cohort and not observed.round.ended:
        answer = observed.round.step if one.site in observed.round.answered else "waiting"
        refused = observed.round.answered.get(one.site)
    return OneSite(
        site=one.site,
        fingerprint=one.fingerprint,
        admitted=one.since,
        certificate_days=_days_left(one.certificate.encode(), now),
        connected=None if there is None else presence is not None and presence.online,
        last_seen=max((seen for seen in (presence and presence.last_seen, last_seen) if seen), default=None),
        answer=answer,
        refused=refused,
    )


def _progress(observed: Observed) -> Progress | None:
    round = observed.round
    if round is None:
        return None
    return Progress(
        version=round.version,
        phase=round.phase,
        round=round.number,
        rounds=observed.opened.rounds if observed.opened else None,
        step=round.step,
        since=round.since,
        ended=round.ended,
        answered=sorted(site for site, refused in round.answered.items() if refused is None),
        refused=sorted(site for site, refused in round.answered.items() if refused is not None),
        waiting=sorted(set(round.cohort) - set(round.answered)),
    )


def _certificates(server: Server, now: datetime) -> Sequence[Certificate]:
    found = []
    for name, path in (("server", server.certificate_file), ("authority", server.authority_file)):
        try:
            own = certificate_of(path.read_bytes())
        except (OSError, IdentityError):
            continue  # `server start` says what is wrong with it
        expires = own.not_valid_after_utc.isoformat(timespec="seconds")
        found.append(Certificate(name=name, expires=expires, days=days_left(own, now)))
    return found


def _days_left(pem: bytes, now: datetime) -> float | None:
    try:
        return days_left(certificate_of(pem), now)
    except IdentityError:
        return None
