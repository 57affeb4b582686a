"""How much a site trains in a round: steps, learning rates, and how many sites at once. Plain numbers, no library needed.

Example::

    steps_per_round(800, experiment.training, private=True)     # 4
    rate_factor(0, 20, experiment.training)                     # 1.0
"""

import math

from fedrelease.experiment import Training

__all__ = ["ABREAST", "rate_factor", "steps_per_round"]

ABREAST = 32
"""Sites in one computation: enough to fill it, few enough that their weights stay in the processor's cache.

Always as many, if need be with one of them over and over: how a kernel rounds depends on the shape of all that it is given, and a
site's result must not depend on who else was there.
"""


def steps_per_round(rows: int, training: Training, *, private: bool) -> int:
    """Steps of one round: ``epochs`` passes of ``rows`` in batches of ``batch_size``, at least one, at most ``max_steps``.

    A plain epoch ends with a smaller batch, so that it sees every row; the batches of private sampling are ``batch_size`` rows
    on average, so that a pass is a number of rows, rounded.
    """
    batches = rows / min(training.batch_size, rows)
    steps = max(1, round(training.epochs * (batches if private else math.ceil(batches))))
    return steps if training.max_steps is None else min(steps, training.max_steps)


def rate_factor(step: int, total: int, training: Training) -> float:
    """The share of the learning rate that step ``step`` of ``total`` uses: warm-up from 0, then constant or down to 0.

    Source of the cosine: Loshchilov and Hutter (2017), https://arxiv.org/abs/1608.03983, equation 5, without restarts.
    """
    warm = training.warmup * total
    if step < warm:
        return (step + 1) / (warm + 1)
    left = (total - step) / max(1.0, total - warm)
    return {"constant": 1.0, "linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2}[training.schedule]
