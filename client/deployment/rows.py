"""Where a site's rows, base and ledger are, told to the ClientApp for one message; rows are tokenised when they are first needed.

Example::

    context.node_config = node_of(site, message)
"""

from dataclasses import replace
from pathlib import Path

from flwr.app import Message
from flwr.app.user_config import UserConfig

from fedrelease.cache import cache_folder
from fedrelease.client.deployment.fetch import fetched_base_folder
from fedrelease.client.deployment.folder import SiteFolder
from fedrelease.data.own import prepare_own
from fedrelease.errors import DataError, ModelError
from fedrelease.messages import Request, parse_request
from fedrelease.models.bases import Base, open_base

__all__ = ["node_of", "prepare_for"]


def node_of(site: SiteFolder, message: Message) -> UserConfig:
    """The node's configuration for one message, from the site's own settings and from nothing that came with it.

    Raises:
        FedreleaseError: the rows or the base cannot be used.
    """
    node: UserConfig = {"site": site.settings.site, "noise": site.settings.noise}
    if message.metadata.message_type == "query":
        return node
    request = parse_request(str(message.content.config_records["config"]["request"]))
    base = _base(site, request)
    return {**node, "base": str(base.folder), "data": str(prepare_for(site, request, base)), "home": str(site.home)}


def prepare_for(site: SiteFolder, request: Request, base: Base) -> Path:
    """The folder with the site's rows for this experiment.

    Raises:
        DataError: the source cannot be used.
    """
    own = site.settings
    if not own.source:
        raise DataError("this site has no data", rule="[data] source in site.toml names a file", hint="edit site.toml")
    source = Path(own.source).expanduser()
    found = source if source.is_absolute() else site.folder / source
    data = replace(request.experiment.data, source=str(found), text=own.text, label=own.label)
    return prepare_own(
        replace(request.experiment, data=data),
        site=own.site,
        base_folder=base.folder,
        tokenizer_digest=base.tokenizer_digest,
        folder=site.prepared,
    )


def _base(site: SiteFolder, request: Request) -> Base:
    """The base of the experiment: what was fetched by its digest first, for that is the right one whatever it is called."""
    fetched = fetched_base_folder(site, request.base)
    ref = str(fetched) if fetched else site.settings.base or request.experiment.model.base
    base = open_base(ref, cache=cache_folder())
    if base.digest != request.base:
        raise ModelError(
            "this site's base is not the server's",
            value=base.digest,
            rule=f"the digest of the base's files is {request.base}",
            hint="fetch the server's base: fedrelease site fetch",
        )
    return base
