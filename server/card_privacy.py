"""What a release promises about privacy, in plain words, and what the promise does not cover.

Example::

    privacy_words(manifest.privacy)
"""

import math

from fedrelease.manifest import PrivacyFacts

__all__ = ["privacy_words"]

NONE = "None was promised: the release was trained without differential privacy, and may reveal rows that it was trained on."
SEEDED = (
    "- The noise of this run comes from a seed, so that it can be repeated: whoever knows the seed can take it away. It shows"
    " what privacy costs; it protects nobody."
)


def privacy_words(privacy: PrivacyFacts | None) -> str:
    """Unit, epsilon and delta, what they mean, and what lies outside of them."""
    if privacy is None:
        return NONE
    factor = math.exp(min(privacy.epsilon_total, 20.0))
    most = f"{factor:.3g}" if privacy.epsilon_total <= 20 else f"more than {factor:.0g}"
    lines = [
        f"- What is protected: one {privacy.unit} of a site.",
        f"- Epsilon {privacy.epsilon_total:.2f} at delta {privacy.delta:g} until this release, {privacy.epsilon_round:.2f} of it"
        " in this round, at the site that spent most.",
        f"- In words: with or without any one {privacy.unit}, the chance of any outcome differs by at most a factor of {most},"
        f" plus {privacy.delta:g}.",
        f"- How: {privacy.mechanism}, clipped at {privacy.clip:g}, counted by the {privacy.accountant} accountant.",
        *([SEEDED] if privacy.noise == "seeded" else []),
        f"- Not covered: what many {privacy.unit}s of one site have in common, that a site took part, texts that were copied to"
        " another site, the base's own training data, and what sites tell outside of their updates.",
    ]
    return "\n".join(lines)
