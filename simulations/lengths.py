"""How long the gradients of single rows are: what ``privacy.clip`` should be is read off that.

Example::

    found = gradient_lengths(experiment, site=None, rows=64, cache=cache_folder(), say=print)
    found.at(0.5)                        # 0.031: half of the rows have a shorter one
    found.cut                            # 0.52: the share that privacy.clip shortens

Noise is in proportion to the clip. Where no gradient is as long, noise is larger than it has to be, and nothing is won by it.
Source: Abadi et al. (2016), https://arxiv.org/abs/1607.00133, section 4: the median of the lengths is a good bound.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fedrelease.augment import Augment
from fedrelease.client.aim import aim_of, aimed
from fedrelease.client.directives import frozen, parse_directives
from fedrelease.client.training import training_mode
from fedrelease.data.row_files import Rows, of_labels
from fedrelease.data.sites import open_site
from fedrelease.errors import DataError
from fedrelease.experiment import Experiment
from fedrelease.models.bases import Base
from fedrelease.models.classifier import load_state
from fedrelease.models.precision import chosen_precision
from fedrelease.models.tasks import Classifier, build_model
from fedrelease.server.local_model import initial_state
from fedrelease.simulations.simulate import fetched_base, prepared_sites
from fedrelease.strategies import make_strategy

__all__ = ["Lengths", "gradient_lengths"]


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Lengths of gradients of the state of version 0.0.0, one a row, over all that the first phase trains.

    Attributes:
        site: whose rows they are. site_rows: how many it trains on.
        lengths: ``[rows]``, L2, rising.
        numbers: how many are trained.
        clip: the experiment's.
    """

    site: str
    site_rows: int
    lengths: Tensor
    numbers: int
    clip: float

    def at(self, share: float) -> float:
        """The length that this share of the rows does not exceed."""
        return float(torch.quantile(self.lengths, share))

    @property
    def cut(self) -> float:
        """The share of rows whose gradient is longer than the clip."""
        return float((self.lengths > self.clip).double().mean())


def gradient_lengths(
    experiment: Experiment, *, site: str | None, rows: int, cache: Path, say: Callable[[str], None]
) -> Lengths:
    """Look at so many training rows of a site, spread evenly over all that it has; nothing is trained, charged or kept.

    Args:
        site: by name; ``None`` for the first one.
        rows: at most. say: told what is fetched and prepared.

    Raises:
        DataError: the experiment has no such site.
        FedreleaseError: whatever else a run of the experiment would refuse.
    """
    experiment = replace(experiment, model=chosen_precision(experiment.model, cache))
    base = fetched_base(experiment, cache, say)
    prepared = prepared_sites(experiment, base, cache, say)
    name = prepared.sites[0] if site is None else site
    if name not in prepared.sites:
        known = ", ".join(prepared.sites[:8])
        raise DataError(
            "the experiment has no such site", value=name, rule=f"its sites are {known}", hint="leave --site out"
        )
    train = of_labels(open_site(prepared.folder / name).train, len(experiment.model_at(1).labels))
    model = _begun(base, experiment)
    chosen = torch.linspace(0, len(train) - 1, min(rows, len(train))).round().long()
    with frozen(model, parse_directives(make_strategy(experiment.phases[0].strategy).directives(1)).freeze):
        trained = [value for value in model.parameters() if value.requires_grad]
        found = torch.stack(list(_lengths(model, train, chosen, trained, experiment)))
    numbers = sum(value.numel() for value in trained)
    lengths = found.sort().values
    return Lengths(site=name, site_rows=len(train), lengths=lengths, numbers=numbers, clip=experiment.privacy.clip)


def _begun(base: Base, experiment: Experiment) -> Classifier:
    model = build_model(base, experiment.model_at(1), seed=experiment.federation.seed)
    load_state(model, initial_state(base, experiment, round=1))
    return model


def _lengths(
    model: nn.Module, rows: Rows, chosen: Tensor, trained: list[nn.Parameter], experiment: Experiment
) -> Iterator[Tensor]:
    """Of the losses that training makes small, but of whole rows by the whole model: nothing is augmented or dropped."""
    training = replace(experiment.training, augment=Augment(), dropout=0.0)
    as_asked = replace(experiment, training=training)
    aim = aim_of(as_asked, model, rows, labels=experiment.model_at(1).labels, fill=None)
    with training_mode(model), aimed(model, rows, aim, key="lengths") as losses:
        for row in chosen:
            gradients = torch.autograd.grad(losses(row[None], 0), trained)
            yield torch.stack([gradient.double().norm() for gradient in gradients]).norm()
