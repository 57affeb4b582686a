"""What a server asks each site once in a run, before all that costs: who it is, what it runs, whether it will.

Example::

    reasons = FirstQuery(grid, experiment, base=digest, poll_s=0.2)({"amazon": 812}, within_s=60.0)
    reasons["amazon"]                       # None: it takes part; a text: why it does not; no entry: it did not answer

A site is who its key says. What it calls itself must agree: two partners who mixed up their folders shall notice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from flwr.app import ConfigRecord, Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from fedrelease import __version__
from fedrelease.deployment.bundle import bundle, flower_version
from fedrelease.experiment import Experiment
from fedrelease.messages import Request, request_text
from fedrelease.server.flower import first_answers
from fedrelease.wording import plain

__all__ = ["FirstQuery", "reason_of"]

LONGEST = 300
SHOWN = 80


@final
@dataclass(frozen=True, kw_only=True)
class FirstQuery:
    """The question of one run."""

    grid: Grid
    experiment: Experiment
    base: str
    poll_s: float

    def __call__(self, nodes: Mapping[str, int], *, within_s: float) -> Mapping[str, str | None]:
        """Why each site that answers cannot take part, or ``None``."""
        request = Request(experiment=self.experiment, version="", round=0, base=self.base, directives={})
        config = ConfigRecord({"ask": "site", "request": request_text(request)})
        answers = first_answers(self.grid, config, nodes, deadline_s=within_s, poll_s=self.poll_s)
        return {site: reason_of(site, answer) for site, answer in answers.items() if not _passing(answer)}


def reason_of(site: str, answer: Message) -> str | None:
    """What keeps a site from taking part, by its first answer."""
    if answer.has_error():
        return _shown(answer.error.reason or f"error {answer.error.code}", LONGEST)
    facts = answer.content.config_records.get("config", ConfigRecord())
    for key, own, rule in (
        ("site", site, f"its key is that of {site}"),
        ("fedrelease", __version__, f"the server has fedrelease {__version__}"),
        ("flower", flower_version(), f"the server has Flower {flower_version()}"),
        ("bundle", bundle().digest, f"the server's app is {bundle().digest[:16]}"),
    ):
        if facts.get(key) != own:
            return f"it says {key} = {_shown(str(facts.get(key)), SHOWN)}; {rule}"
    return _shown(str(facts.get("refused", "")), LONGEST) or None


def _passing(answer: Message) -> bool:
    """Whether it is no answer of the site: its process is not there, or not yet."""
    return answer.has_error() and answer.error.code != ErrorCode.CLIENT_APP_RAISED_EXCEPTION


def _shown(text: str, most: int) -> str:
    return plain(" ".join(text.split()))[:most]
