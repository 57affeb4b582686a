"""A site's rows and base for one request, from the site's own settings; rows are tokenised when they are first needed.

Example::

    base = base_of(site, request)
    folder = prepare_for(site, request, base)
"""

from dataclasses import replace
from pathlib import Path

from fedrelease.cache import cache_folder
from fedrelease.client.deployment.fetch import fetched_base_folder
from fedrelease.client.deployment.folder import SiteFolder
from fedrelease.data.own import prepare_own
from fedrelease.errors import DataError, ModelError, PolicyRefused
from fedrelease.fetch import ALIASES
from fedrelease.messages import Request
from fedrelease.models.bases import Base, open_base
from fedrelease.models.described import is_description

__all__ = ["base_of", "prepare_for"]


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


def base_of(site: SiteFolder, request: Request) -> Base:
    """The base that is asked for, as it lies at this site: what was fetched by its digest first, whatever it is called.

    A server may name built-in ones only: no folder here, no download.

    Raises:
        PolicyRefused: the server names another, and neither the site's own settings nor what it fetched has it.
        ModelError: it is not there, or it is not the server's.
    """
    fetched, asked = fetched_base_folder(site, request.base), request.experiment.model.base
    own = str(fetched) if fetched else site.settings.base
    if not own and asked not in ALIASES and not is_description(asked):
        raise PolicyRefused(f"base: {', '.join(sorted(ALIASES))}, or what base in site.toml names; asked for another")
    base = open_base(own or asked, cache=cache_folder())
    if base.digest != request.base:
        raise ModelError(
            "this site's base is not the server's",
            value=base.digest,
            rule=f"the digest of the base's files is {request.base}",
            hint="fetch the server's base: fedrelease site fetch",
        )
    return base
