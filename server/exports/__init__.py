"""Exports: a release in the formats of others, each compared with the release before it may stand in for it.

Example::

    done = export(store, store.find("stable"), Wanted(format="hf", merged=True), cache=cache_folder())
"""

from fedrelease.server.exports.run import Exported, Wanted, export
from fedrelease.server.variants import Variant, variants_of

__all__ = ["Exported", "Variant", "Wanted", "export", "variants_of"]
