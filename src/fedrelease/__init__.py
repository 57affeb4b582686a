"""Federated fine-tuning in which every round is a released model version.

Example::

    fedrelease simulate            # a federation on this machine, ends in released versions
    fedrelease log                 # what was released
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
