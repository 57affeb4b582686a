"""A language model: base, adapter, and the base's own last layer, frozen, which says how likely each token is to come next.

Example::

    model = build_language_model(base, experiment.model, seed=7)
    model(batch.input_ids, batch.attention_mask)[..., 0]     # nats of each next token, float32 [rows, tokens]
"""

from fedrelease.experiment import Model
from fedrelease.models.bases import Base
from fedrelease.models.classifier import TextClassifier, adapted
from fedrelease.models.encoders import open_causal
from fedrelease.models.left_to_right import check_left_to_right, check_tells_next

__all__ = ["build_language_model"]


def build_language_model(base: Base, model: Model, *, seed: int) -> TextClassifier:
    """Load the base with its last layer and put the adapter on it. Trained is the adapter, or every weight below that layer.

    Raises:
        ModelError: the base does not load, tells no next token, sees it, or lacks the layers or modules that the adapter names.
    """
    check_tells_next(base)
    encoder, head = open_causal(base, model)
    check_left_to_right(encoder, base)
    return adapted(encoder, None, head, model, seed=seed)
