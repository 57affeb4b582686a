"""Small real federations with each kind of adapter: private and not, stopped and gone on, thawed, exported."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from federations import Federation, write_federation
from safetensors.torch import load_file
from tiny import language_experiment, make_language_base, make_rows, token_rows

from fedrelease.adapter import ADAPTER_KINDS
from fedrelease.errors import EngineError, ExperimentError, ModelError
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import build_classifier, trainable_state
from fedrelease.server.card import card
from fedrelease.server.events import Event, RoundStarted
from fedrelease.server.exports import Wanted, export
from fedrelease.server.exports.compared import logits_of, reference_logits
from fedrelease.server.exports.formats import check_format
from fedrelease.server.exports.plain import plain_model
from fedrelease.server.predict import predict
from fedrelease.server.released_model import own_model, same_base
from fedrelease.server.store import Store
from fedrelease.server.verify import verify
from fedrelease.simulations.lending import Lender

GATES = 'gates = { quality = { severity = "warn", class_severity = "warn", site_severity = "warn" } }'
THAWING = f"""{GATES}
[[phase]]
name = "deeper"
rounds = 1
adapter = {{ layers = "last:2" }}
{GATES}
"""
NEW = [kind for kind in ADAPTER_KINDS if kind not in ("full", "lora", "lora-sb")]
GROWS = [kind for kind in NEW if kind in ("bottleneck", "layers", "norms")]
PLAIN = ("privacy.unit=none",)
SHORT = ("training.max_length=32", "model.adapter.tokens=3")


class Stopped(Exception):
    """Stands in for a crash."""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Federation:
    return write_federation(
        tmp_path_factory.mktemp("kinds"), tiny_base, rounds="1", phase=GATES, training="max_steps = 2"
    )


@pytest.fixture(scope="module")
def thawing(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Federation:
    return write_federation(tmp_path_factory.mktemp("thawing"), tiny_base, rounds="1", phase=THAWING)


@pytest.fixture(scope="module")
def lender(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lender]:
    with Lender(home=tmp_path_factory.mktemp("engine"), workers=1) as lender:
        yield lender


def language_federation(folder: Path) -> Federation:
    base = make_language_base(folder / "base", "llama")
    rows = make_rows(folder / "rows.csv", sites=("a", "b"), rows=24)
    file = folder / "language.toml"
    text = language_experiment(base, rows, privacy='epsilon = 8.0\naccountant = "rdp"', rounds="1", phase=GATES)
    file.write_text(text, encoding="utf-8")
    return Federation(folder=folder, file=file, rows=rows, cache=folder / "cache")


def learned(store: Store, version: str) -> float:
    """How far a version's state is from the first one's, but for its head, as a share of its length."""
    before, after = (store.find(one).state() for one in ("0.0.0", version))
    body = [name for name in after if not name.startswith("head.")] or list(after)
    return max(float((after[name] - before[name]).norm()) for name in body if name in before)


@pytest.mark.parametrize("kind", [kind for kind in ADAPTER_KINDS if kind != "lora"])
def test_every_kind_trains_privately_and_exports_what_it_says(
    kind: str, federation: Federation, lender: Lender, tiny_base: Path, tmp_path: Path
) -> None:
    federation.simulate(kind, f"model.adapter.kind={kind}", *SHORT, lender=lender)
    store = Store.open(federation.folder / kind)
    release = store.find("0.1.1")
    assert learned(store, "0.1.1") > 0 and verify(store).ok
    assert release.manifest.privacy is not None and 0 < release.manifest.privacy.epsilon_total <= 8
    (found,) = predict(release, ["the film was good"], cache=federation.cache)
    assert 0.5 <= found.score <= 1
    rows = token_rows(tmp_path / "rows.safetensors", tiny_base)
    plain = plain_model(release, cache=federation.cache)
    wanted = reference_logits(release, same_base(release, federation.cache), rows)
    torch.testing.assert_close(logits_of(plain.module, rows, plain.inputs), wanted, atol=1e-5, rtol=1e-5)
    done = export(store, release, Wanted(format="safetensors", out=tmp_path / "out"), cache=federation.cache)
    assert done.variant.verdict == "pass"


@pytest.mark.parametrize("kind", GROWS)
def test_layers_that_thaw_begin_as_the_base_has_them_and_a_run_that_was_stopped_ends_with_the_same_digest(
    kind: str, thawing: Federation, lender: Lender, tiny_base: Path
) -> None:
    thawing.simulate(kind, *PLAIN, f"model.adapter.kind={kind}", lender=lender)
    store = Store.open(thawing.folder / kind)
    assert thawing.versions(kind) == ["0.0.0", "0.1.1", "1.2.1"]
    first, last = store.find("0.1.1"), store.find("1.2.1")
    new = last.state().keys() - first.state().keys()
    assert new and all(".layer.0." in name for name in new)
    fresh = trainable_state(build_classifier(open_base(str(tiny_base), cache=thawing.cache), own_model(last), seed=7))
    # two AdamW steps of 0.01 a round: nothing that thawed is further from the base
    assert all(float((last.state()[name] - fresh[name]).abs().max()) < 0.1 for name in new)

    def stop(event: Event) -> None:
        if isinstance(event, RoundStarted) and event.version == "1.2.1":
            raise Stopped

    with pytest.raises(Stopped):
        thawing.simulate(f"{kind}-stopped", *PLAIN, f"model.adapter.kind={kind}", watch=stop, lender=lender)
    thawing.simulate(f"{kind}-stopped", *PLAIN, f"model.adapter.kind={kind}", lender=lender)
    assert thawing.digest(f"{kind}-stopped") == thawing.digest(kind)


def test_manifests_and_cards_tell_what_is_trained(federation: Federation, lender: Lender) -> None:
    settings = ("model.adapter.kind=prefix", "model.adapter.tokens=5", "training.max_length=59", *PLAIN)
    federation.simulate("told", *settings, lender=lender)
    release = Store.open(federation.folder / "told").find("0.1.1")
    assert (release.manifest.adapter.kind, release.manifest.adapter.tokens) == ("prefix", 5)
    assert "5 learned vectors before the text at each layer and a linear head" in card(release)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ("model.adapter.kind=prompt", "model.adapter.tokens=5"),
            r"5 \+ 64 tokens.*at most 64.*max_length to at most 59",
        ),
        (("model.adapter.kind=bottleneck", "model.adapter.layers=last:3"), r"fewer layers.*last:3.*at most last:2"),
    ],
)
def test_what_the_base_has_no_place_for_is_refused_before_training_with_the_way_out(
    settings: tuple[str, ...], said: str, federation: Federation, lender: Lender
) -> None:
    with pytest.raises(EngineError, match=said):
        federation.simulate("refused", *settings, lender=lender)
    assert Store.open(federation.folder / "refused").head() is None


@pytest.mark.parametrize("kind", NEW)
def test_a_rule_for_factors_refuses_a_kind_without_any(kind: str, federation: Federation) -> None:
    settings = (f"model.adapter.kind={kind}", "phase.0.strategy=flora")
    with pytest.raises(ExperimentError, match=f'flora does not work with this adapter.*kind = "{kind}"'):
        federation.simulate(f"refused-{kind}", *settings)
    assert not (federation.folder / f"refused-{kind}").exists()


@pytest.mark.parametrize("kind", NEW)
def test_forms_of_others_are_refused_where_they_have_no_word_for_it(
    kind: str, federation: Federation, lender: Lender
) -> None:
    federation.simulate(kind, f"model.adapter.kind={kind}", *SHORT, lender=lender)
    manifest = Store.open(federation.folder / kind).find("0.1.1").manifest
    forms = {"head": (True,), "layers": (True,), "norms": (True,), "prompt": (False,)}.get(kind, ())
    for merged in (False, True):
        if merged in forms:
            assert check_format("hf", merged=merged, manifest=manifest).startswith("hf")
            continue
        with pytest.raises(ModelError, match="--format hf" if forms else "--format onnx or --format safetensors"):
            check_format("hf", merged=merged, manifest=manifest)


@pytest.mark.parametrize("kind", ["bottleneck", "layers", "norms", "prefix", "prompt"])
def test_a_language_model_is_trained_privately_with_each_kind_and_goes_on_with_a_text(
    kind: str, lender: Lender, tmp_path: Path
) -> None:
    federation = language_federation(tmp_path)
    settings = (*SHORT, "model.adapter.targets=all-linear")
    federation.simulate("store", f"model.adapter.kind={kind}", *settings, lender=lender)
    (found,) = predict(Store.open(tmp_path / "store").find("0.1.1"), ["the film"], cache=federation.cache, tokens=4)
    assert found.document()


@pytest.mark.parametrize("task", ["causal-lm", "text-classification"])
def test_peft_opens_a_prompt_and_says_what_the_release_says(
    task: str, federation: Federation, lender: Lender, tmp_path: Path
) -> None:
    if task == "causal-lm":
        federation = language_federation(tmp_path)
    federation.simulate("prompt", "model.adapter.kind=prompt", *SHORT, lender=lender)
    store = Store.open(federation.folder / "prompt")
    done = export(store, store.find("0.1.1"), Wanted(format="hf", out=tmp_path / "out"), cache=federation.cache)
    assert done.variant.verdict == "pass"
    shapes = {name: tuple(value.shape) for name, value in load_file(tmp_path / "out/adapter_model.safetensors").items()}
    assert shapes == {"prompt_embeddings": (3, 32)}
    code = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert ("last_hidden_state[:, 3:]" in code) == (task != "causal-lm")
