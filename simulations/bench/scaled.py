"""The built-in experiments at a size that a benchmark can repeat.

Example::

    experiment = scaled(3, 1000)             # three rounds, 1,000 rows a site
"""

import argparse
from dataclasses import replace
from importlib import resources

from fedrelease.experiment import Experiment
from fedrelease.experiment_file import load_experiment

__all__ = ["EXPERIMENTS", "at_least_one", "scaled"]

STUDIES = "fedrelease.simulations.studies"
EXPERIMENTS = {"keep": "default.toml", "none": "four-sites-none.toml"}
HOLDOUT_LIMIT = 300


def scaled(rounds: int, limit: int, privacy: str = "keep") -> Experiment:
    """A built-in experiment's last phase only, for that many rounds. The one without privacy has its own settings."""
    with resources.as_file(resources.files(STUDIES) / EXPERIMENTS[privacy]) as path:
        experiment = load_experiment(path, [f"data.limit_per_site={limit}", f"data.holdout_limit={HOLDOUT_LIMIT}"])
    return replace(experiment, phases=(replace(experiment.phases[-1], rounds=rounds),))


def at_least_one(text: str) -> int:
    """For a command line: a whole number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number
