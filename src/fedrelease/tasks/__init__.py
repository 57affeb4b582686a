"""What a model is for: one file a task, and this list.

Example::

    TASKS["token-classification"].columns        # ('text', 'label')
"""

from collections.abc import Mapping

from fedrelease.tasks.causal_lm import CAUSAL_LM
from fedrelease.tasks.contract import Task
from fedrelease.tasks.image_classification import IMAGE_CLASSIFICATION
from fedrelease.tasks.masked_lm import MASKED_LM
from fedrelease.tasks.multi_label_classification import MULTI_LABEL_CLASSIFICATION
from fedrelease.tasks.pair_classification import PAIR_CLASSIFICATION
from fedrelease.tasks.regression import REGRESSION
from fedrelease.tasks.seq2seq import SEQ2SEQ
from fedrelease.tasks.text_classification import TEXT_CLASSIFICATION
from fedrelease.tasks.token_classification import TOKEN_CLASSIFICATION

__all__ = ["TASKS"]

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        CAUSAL_LM,
        IMAGE_CLASSIFICATION,
        MASKED_LM,
        MULTI_LABEL_CLASSIFICATION,
        PAIR_CLASSIFICATION,
        REGRESSION,
        SEQ2SEQ,
        TEXT_CLASSIFICATION,
        TOKEN_CLASSIFICATION,
    )
}
