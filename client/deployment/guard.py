"""The site's own rules around one message: checked before anything is read, charged or computed, and again on what goes back.

Example::

    reply = answered(site, message, context)          # PolicyRefused, or an answer that keeps to [policy] of site.toml

What a round does is :mod:`fedrelease.client.app`'s business, the same as in a simulation.
"""

import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.app.user_config import UserConfig

from fedrelease import __version__
from fedrelease.client.app import app, facts_of
from fedrelease.client.deployment.folder import SiteFolder
from fedrelease.client.deployment.rows import base_of, prepare_for
from fedrelease.client.phase_rows import rows_of, stretches
from fedrelease.client.policy import (
    bounded,
    check_bytes,
    check_plan,
    check_request,
    check_steps,
    told_answer,
)
from fedrelease.data.sites import open_site
from fedrelease.deployment.bundle import bundle, flower_version
from fedrelease.errors import ExperimentError, FedreleaseError, PolicyRefused, StoreError, UpdateRefused
from fedrelease.messages import Request, parse_answer, parse_request, request_text

__all__ = ["answered", "check_app", "check_room", "limited"]

STEPS = ("evaluate", "train")
AGREE = "at the site, which has it installed: fedrelease site agree"
ROOM_BYTES = 16 << 20


def check_app(site: SiteFolder, digest: str) -> None:
    """Go on if the run's app is the one that this site agreed to and has installed.

    Raises:
        PolicyRefused: it is another.
    """
    own, installed = site.settings.bundle, bundle().digest
    if digest != own or own != installed:
        raise PolicyRefused(
            "this site does not know the app that the server started",
            value=digest[:16],
            rule=f"the app is {own[:16]}, as agreed in the invitation, and {installed[:16]} is installed",
            hint=AGREE if digest == installed else "both sides install the same version of fedrelease and Flower",
        )


def check_room(folder: Path, *, least_bytes: int = ROOM_BYTES) -> None:
    """Go on if what is to be computed can be written down: a charge whose answer cannot be kept is paid for nothing.

    Raises:
        StoreError: there is no room.
    """
    free = shutil.disk_usage(folder).free
    if free < least_bytes:
        raise StoreError(
            "the disk is full",
            value=f"{free >> 20} MB in {folder}",
            rule=f"{least_bytes >> 20} MB are free before anything is charged",
            hint="free some space: the site then answers again by itself",
        )


def answered(site: SiteFolder, message: Message, context: Context) -> Message:
    """What the site answers; nothing that came with the message decides where its rows, its base or its ledger are.

    Raises:
        PolicyRefused: the message asks for what the site's policy forbids; nothing was read or charged for it.
        FedreleaseError: the rows or the base cannot be used, or training refuses.
    """
    node: UserConfig = {"site": site.settings.site, "noise": site.settings.noise}
    kind = message.metadata.message_type
    if kind == "query":
        context.node_config = node
        return _described(site, message, app(message, context))
    if kind not in STEPS:
        raise PolicyRefused("a site answers query, train and evaluate", value=kind[:40])
    request = _allowed(site, message, kind)
    context.node_config = {**node, **_prepared(site, request, kind)}
    with limited(site.settings.policy.seconds):
        reply = app(message, context)
    return _kept(site, request, kind, reply)


def _allowed(site: SiteFolder, message: Message, kind: str) -> Request:
    """The request in a message, within the policy; what the policy sharpens is sharpened in the message too."""
    policy = site.settings.policy
    request = _request(message)
    records = message.content.array_records.values()
    check_bytes(policy, sum(len(array.data) for record in records for array in record.values()))
    check_request(policy, request, pinned=site.pinned_base())
    sharper = bounded(policy, request) if kind == "evaluate" else request
    if sharper is not request:
        message.content.config_records["config"]["request"] = request_text(sharper)
    return sharper


def _request(message: Message) -> Request:
    try:
        return parse_request(str(message.content.config_records["config"]["request"]))
    except ExperimentError as error:  # all of it is the server's
        raise UpdateRefused("the request's experiment is not in order", value=str(error)) from error
    except KeyError as error:
        raise UpdateRefused("the message has no request", rule="config has the key request") from error


def _prepared(site: SiteFolder, request: Request, kind: str) -> UserConfig:
    base = base_of(site, request)
    site.pin_base(base.digest)
    folder = prepare_for(site, request, base)
    if kind == "train":
        _check_length(site, request, folder)
    return {"base": str(base.folder), "data": str(folder), "home": str(site.home)}


def _check_length(site: SiteFolder, request: Request, folder: Path) -> None:
    now, _ = stretches(rows_of(open_site(folder), request), request.experiment, round=request.round)
    check_steps(site.settings.policy, now.steps)


def _kept(site: SiteFolder, request: Request, kind: str, reply: Message) -> Message:
    """The answer without what the policy keeps here."""
    if reply.has_error():
        return reply
    answer = parse_answer(str(reply.content.config_records["config"]["answer"]))
    less = told_answer(site.settings.policy, request, answer, step=kind)
    if less != answer:
        for name, record in facts_of(less).items():
            reply.content[name] = record
    return reply


def _described(site: SiteFolder, message: Message, reply: Message) -> Message:
    """The first answer of a run: who this is, what is installed, and whether this site's rules let the experiment be."""
    facts = reply.content.config_records["config"]
    facts["fedrelease"], facts["flower"], facts["bundle"] = __version__, flower_version(), bundle().digest
    asked = message.content.config_records.get("config", ConfigRecord())
    facts["refused"] = _refused(site, message) if "request" in asked else ""
    reply.content = RecordDict({"config": facts})
    return reply


def _refused(site: SiteFolder, message: Message) -> str:
    try:
        request = _request(message)
        policy, pinned = site.settings.policy, site.pinned_base()
        check_plan(policy, request.experiment, base=request.base, pinned=pinned)
    except (PolicyRefused, UpdateRefused) as error:
        return str(error)
    except FedreleaseError as error:
        return error.what
    return ""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """End the block after so many seconds. What was charged until then stays charged.

    Raises:
        PolicyRefused: the time was up.
    """
    if (
        threading.current_thread() is not threading.main_thread()
    ):  # signals are the main thread's; there is no other way in
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise PolicyRefused(f"policy.seconds: at most {seconds:g} a round, and they are over")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
