"""A partner's own rows on its own machine, prepared as the experiment says; nobody else's are there.

Example::

    folder = prepare_own(experiment, site="amazon", base_folder=base, tokenizer_digest=digest, folder=Path("prepared"))
    open_site(folder)
"""

from dataclasses import replace
from pathlib import Path

from fedrelease.cache import workspace
from fedrelease.data.plan import plan_own
from fedrelease.data.sites import prepared_key, write_prepared
from fedrelease.data.sources import Table, load_table, source_digest, table_digest
from fedrelease.data.tokens import load_tokenizer
from fedrelease.experiment import Experiment, Partition

__all__ = ["prepare_own"]

WHOLE = Partition(by="iid", sites=1)
"""No column is needed to tell whose a row is."""


def _table(experiment: Experiment, folder: Path) -> Table:
    return load_table(experiment.data, experiment.model.labels, cache=folder, task=experiment.model.task)


def prepare_own(experiment: Experiment, *, site: str, base_folder: Path, tokenizer_digest: str, folder: Path) -> Path:
    """Split and tokenise the rows of ``experiment.data.source``, all of which are this site's, or find that done already.

    Guarantees: a site with these rows in this order gets the same split, rows and digests as the same site of a simulation of
    the same experiment and seed.

    Raises:
        DataError: the source cannot be used.
    """
    data = replace(experiment.data, partition=WHOLE, server_holdout=0.0)
    experiment = replace(experiment, data=data)
    content, table = source_digest(data.source), None
    if content is None:
        table = _table(experiment, folder)
        content = table_digest(table)
    made = folder / prepared_key(experiment, f"{site} {content}", tokenizer_digest)
    if not (made / site / "site.json").is_file():
        table = table or _table(experiment, folder)
        tokenizer = None if table.features is not None else load_tokenizer(base_folder)
        with workspace(folder) as work:
            if not (made / site / "site.json").is_file():
                write_prepared(experiment, table, plan_own(experiment, table, site), tokenizer, work / "new")
                (work / "new").rename(made)
    return made / site
