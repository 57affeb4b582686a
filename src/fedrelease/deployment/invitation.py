"""An invitation: the file that a partner gets from an operator, good for one site and for one use.

Example::

    invitation = read_invitation(Path("amazon.invitation"))
    invitation.site, invitation.server                    # 'amazon', 'fed.example.org:9443'

It holds a token: whoever has the file can become that site, until the site has. It goes by a way that both trust.
"""

import json
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from fedrelease import __version__
from fedrelease.deployment.certificates import certificate_of
from fedrelease.errors import IdentityError

__all__ = ["Invitation", "invitation_text", "read_invitation"]

FORMAT = 1
_RULE = "an invitation is the file that `fedrelease server invite SITE` wrote, whole"


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """What a site needs to know before it can say who it is.

    Attributes:
        federation: its name, for people. site: the name that this site will have.
        server: ``host:port`` where sites come in. releases: ``host:port`` of the release service.
        authority: the certificate, in PEM, that the server's own is signed with; the site trusts no other.
        token: proves that the invitation is ours. Secret until it is used.
        expires: ISO 8601 in UTC.
        bundle: digest of the Flower app that the server starts. fedrelease: the server's version.
    """

    federation: str
    site: str
    server: str
    releases: str
    authority: str
    token: str
    expires: str
    bundle: str
    fedrelease: str = __version__
    format: int = FORMAT

    def __repr__(self) -> str:
        """Without the token."""
        return f"Invitation(site={self.site!r}, server={self.server!r}, expires={self.expires!r})"


def invitation_text(invitation: Invitation) -> bytes:
    """The file's bytes."""
    return (json.dumps(asdict(invitation), indent=2) + "\n").encode()


def read_invitation(path: Path, *, now: datetime | None = None) -> Invitation:
    """The invitation in a file.

    Raises:
        IdentityError: it cannot be read, is of another version, or has expired.
    """
    try:
        found = json.loads(path.read_bytes())
        if found.get("format") != FORMAT:
            raise IdentityError(
                "this invitation has another format",
                value=found.get("format"),
                rule=f"this version reads {FORMAT}",
                hint="install the version of fedrelease that the operator has",
            )
        if set(found) != {field.name for field in fields(Invitation)} or not all(
            isinstance(value, str) for key, value in found.items() if key != "format"
        ):
            raise ValueError("keys")
        invitation = Invitation(**found)
        certificate_of(invitation.authority.encode())
        expires = datetime.fromisoformat(invitation.expires)
        late = expires < (now or datetime.now(UTC))
    except OSError as error:
        raise IdentityError(f"the invitation cannot be read: {error.strerror}", value=str(path), rule=_RULE) from error
    except (ValueError, AttributeError, TypeError) as error:
        hint = "ask the operator for it again"
        raise IdentityError("this file is no invitation", value=str(path), rule=_RULE, hint=hint) from error
    if late:
        raise IdentityError(
            "the invitation has expired",
            value=invitation.expires,
            rule="it is good until then, by this machine's clock",
            hint=f"ask the operator for another: fedrelease server invite {invitation.site}",
        )
    return invitation
