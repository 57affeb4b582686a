"""What the attack bench can learn, which rules it sets against which attacks, and how much of that in one go.

Example::

    TASKS["digits"].data.partition.sites         # 15: three of them are a fifth, and the fewest with which Bulyan bears three
"""

from collections.abc import Mapping

from fedrelease.attack import KINDS
from fedrelease.experiment import (
    Adapter,
    Data,
    Experiment,
    Federation,
    Model,
    Partition,
    Phase,
    Privacy,
    Training,
)

__all__ = ["ATTACKS", "QUICK", "RULES", "TASKS"]

RULES = (
    "fedavg",
    "median",
    "trimmed-mean",
    "krum",
    "multi-krum",
    "bulyan",
    "geometric-median",
    "centered-clip",
    "norm-bound",
    "foolsgold",
)
ATTACKS = ("none", *sorted(kind for kind in KINDS if kind != "none"))
QUICK = ("scaling", "sign-flip")
"""What plain averaging does not survive, and robust rules promise to."""

_QUIET = Federation(name="attacks", evaluators=0, max_update_norm=1e9)
"""No site looks at a candidate, and no update is refused for its length: rules have to bear it by themselves."""

TASKS: Mapping[str, Experiment] = {
    "digits": Experiment(
        federation=_QUIET,
        model=Model(
            base="mlp:784-64",
            task="image-classification",
            labels=tuple("0123456789"),
            adapter=Adapter(kind="full"),
        ),
        data=Data(source="digits", server_holdout=0.2, partition=Partition(by="iid", sites=15)),
        training=Training(batch_size=10, lr=0.1, optimizer="sgd", schedule="linear"),
        privacy=Privacy(unit="none"),
        phases=(Phase(rounds=6),),
    ),
    "sms-spam": Experiment(
        federation=_QUIET,
        model=Model(base="minilm", labels=("ham", "spam")),
        data=Data(source="sms-spam", server_holdout=0.1, limit_per_site=80, partition=Partition(by="iid", sites=10)),
        training=Training(batch_size=8, lr=3e-3, head_lr=1e-2, max_length=64),
        privacy=Privacy(unit="none"),
        phases=(Phase(rounds=3),),
    ),
}
