"""A released version as a model that answers: its base, checked, and the state that was released.

Example::

    release = store.find("stable")
    model = released_model(release, same_base(release, cache_folder()))
    model(*rows.batch([0, 1]).inputs)                        # logits
"""

from dataclasses import replace
from pathlib import Path

from fedrelease.errors import ModelError
from fedrelease.experiment import Model
from fedrelease.models.bases import Base, open_base
from fedrelease.models.classifier import load_state
from fedrelease.models.tasks import Classifier, build_model
from fedrelease.server.release import Release, experiment_of
from fedrelease.update import State

__all__ = ["own_model", "released_model", "same_base"]


def released_model(
    release: Release, base: Base, *, precision: str | None = None, own: State | None = None
) -> Classifier:
    """The model of a release on its base, see :func:`same_base`; in the precision of its experiment, or in another one.

    With ``own``, a site's own tensors are in the places of the release's.

    Raises:
        ModelError: the state does not fit the base.
        DamagedRelease: a file of the release changed.
    """
    known = own_model(release)
    model = build_model(
        base, replace(known, precision=precision or known.precision), seed=0
    )  # all of it is the release's
    load_state(model, {**release.state(), **(own or {})})
    return model.eval()


def own_model(release: Release) -> Model:
    """The model that a release is of: its experiment's, with the labels and the adapter that it had by then."""
    experiment, manifest = experiment_of(release), release.manifest
    known = experiment.model.with_labels(len(manifest.task.labels))
    return replace(known, adapter=experiment.adapter_at(manifest.round))


def same_base(release: Release, cache: Path) -> Base:
    """The base of a release, which is there and has the very bytes that it had.

    Raises:
        ModelError: there is none, or it has others.
    """
    wanted = release.manifest.base
    base = open_base(wanted.ref, cache=cache)
    if dict(base.files) != dict(wanted.files):
        changed = sorted(
            name for name in {*base.files, *wanted.files} if base.files.get(name) != wanted.files.get(name)
        )
        raise ModelError(
            f"the base {wanted.ref} here is not the one that {release.version} was trained on",
            value=changed,
            rule="an adapter is used with its own base only: the same files, digest by digest",
            hint="fetch the base anew, or put the files of the release's base into that folder",
        )
    return base
