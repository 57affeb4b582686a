"""Reading, overriding and writing experiments."""

import json
import tomllib
from dataclasses import MISSING, fields, replace
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedrelease import experiment_data as d
from fedrelease import experiment_sections as e
from fedrelease import experiment_training as t
from fedrelease.attack import Attack
from fedrelease.errors import ExperimentError
from fedrelease.experiment import Experiment, Federation, Phase, StrategyChoice, Training
from fedrelease.experiment_document import Misfit, read_experiment
from fedrelease.experiment_file import (
    differences,
    experiment_digest,
    from_document,
    load_experiment,
    to_document,
    to_toml,
)
from fedrelease.virtual_time import VirtualTime

STUDY = """\
[federation]
name = "sms-spam"

[model]
labels = [
    "ham",
    "spam",
]
[model.adapter]
rank = 4

[data]
limit_per_site = 500
[data.partition]
by = "dirichlet"

[training]
lr = 1e-2

[[phase]]
name = "pilot"
rounds = 2
sites_per_round = 4

[[phase]]
name = "broad"
strategy = { name = "fedadam", lr = 0.01 }
"""


def load(text: str = "", *overrides: str) -> Experiment:
    return load_experiment(Path("studies/x.toml"), overrides, text=text)


def refused(text: str = "", *overrides: str) -> ExperimentError:
    with pytest.raises(ExperimentError) as error:
        load(text, *overrides)
    return error.value


# ------------------------------------------------------------------ the file


def test_a_file_sets_its_keys_and_the_rest_keeps_its_defaults(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    study = load_experiment(tmp_path / "study.toml")
    assert (study.federation.name, study.federation.seed) == ("sms-spam", 7)
    assert study.model.labels == ("ham", "spam") and study.model.adapter.rank == 4
    assert study.phases[0].strategy == StrategyChoice(name="fedavg")
    assert study.phases[1].strategy == StrategyChoice(name="fedadam", knobs={"lr": 0.01})


def test_no_file_and_no_text_is_the_default_experiment() -> None:
    assert load_experiment(None) == Experiment()


def test_a_strategy_is_a_name_or_a_table() -> None:
    assert load('[[phase]]\nstrategy = "median"').phases[0].strategy == StrategyChoice(name="median")


def test_a_whole_number_fits_a_float_key() -> None:
    assert type(load("[training]\nlr = 1").training.lr) is float


@pytest.mark.parametrize(("text", "kind"), [("1", int), ("1.0", float)])
def test_one_site_and_all_sites_stay_apart(text: str, kind: type) -> None:
    assert type(load(f"[[phase]]\nsites_per_round = {text}").phases[0].sites_per_round) is kind


def test_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_bytes(b"\xef\xbb\xbf" + STUDY.replace("\n", "\r\n").encode())
    assert load_experiment(tmp_path / "study.toml") == load(STUDY)


# ------------------------------------------------------------------ refusals


def test_an_unknown_key_is_refused_with_file_line_and_nearest_name() -> None:
    error = refused(STUDY.replace("lr = 1e-2", "epohcs = 2"))
    assert "studies/x.toml line 18" in error.what and error.value == "training.epohcs"
    assert "class_weights, dropout, epochs" in error.rule and error.hint == "training.epochs"


def test_an_unknown_section_is_refused_where_it_opens() -> None:
    error = refused("[training]\nlr = 0.1\n\n[partition]\nby = 'iid'")
    assert "line 4" in error.what and error.hint == "data.partition"


def test_a_key_outside_its_section_is_told_where_it_belongs() -> None:
    assert refused("epochs = 1").hint == "training.epochs"


@pytest.mark.parametrize(
    ("text", "line", "wanted"),
    [
        ('[training]\nlr = "fast"', 2, "training.lr is a number"),
        ("[training]\nlr = true", 2, "training.lr is a number"),
        ("[federation]\n\nseed = 1.0", 3, "federation.seed is a whole number"),
        ("[federation]\nseed = true", 2, "federation.seed is a whole number"),
        ("[federation]\nkeep_updates = 1", 2, "federation.keep_updates is true or false"),
        ("[federation]\nname = 2024-01-01", 2, "federation.name is text"),
        ('[model]\nbase = "b"\nlabels = [\n  "a",\n  3,\n]', 3, "model.labels.1 is text"),
        ('[model]\nlabels = "a"', 2, "model.labels is a list"),
        ("training = 3", 1, "training is a section"),
        ("[phase]\nrounds = 1", 1, "phase is a list"),
        ("[[phase]]\n[[phase]]\nstrategy = 3", 3, "phase.1.strategy is a name"),
        ("[[phase]]\nstrategy = { name = 3 }", 2, "phase.0.strategy.name is text"),
        ("[[phase]]\nstrategy.lr = [1]", 2, "phase.0.strategy.lr is a number"),
        ("[[phase]]\nsites_per_round = true", 2, "phase.0.sites_per_round is a number"),
        ("[federation]\nseed = 0x1" + "0" * 5000, 2, "federation.seed is a whole number of at most 64 bits"),
    ],
)
def test_a_wrong_type_is_refused_with_line_and_wanted_type(text: str, line: int, wanted: str) -> None:
    error = refused(text)
    assert f"studies/x.toml line {line}: " in error.what and error.rule.startswith(wanted)


def test_bounds_get_file_line_and_the_number_of_the_phase() -> None:
    error = refused("[[phase]]\nrounds = 1\n[[phase]]\nname = 'b'\nrounds = 0")
    assert error.what == "studies/x.toml line 5: phase.1.rounds is out of bounds" and error.value == 0


def test_a_rule_between_sections_names_the_line_of_the_key() -> None:
    assert "line 3: training.patience" in refused('[privacy]\n[training]\npatience = 2\nschedule = "linear"').what


def test_a_syntax_error_has_file_line_and_the_reason() -> None:
    assert refused("[training]\nlr = = 3").what.startswith("studies/x.toml line 2: this is not TOML: ")
    assert "line 3" in refused("[model]\nlabels = [\n'a'").what


def test_a_missing_file_is_named_and_the_hint_lists_the_built_in_experiments(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"nope\.toml does not exist") as error:
        load_experiment(tmp_path / "nope.toml")
    assert "built-in experiment" in error.value.hint


def test_a_folder_or_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    for path in (tmp_path, tmp_path / "bytes.toml"):
        with pytest.raises(ExperimentError, match="cannot be read"):
            load_experiment(path)


def test_a_file_that_nests_too_deep_is_refused() -> None:
    assert "not TOML" in refused("a = " + "[" * 100_000).what


# ------------------------------------------------------------------ --set


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("training.lr=0.003", "training.lr: 0.01 -> 0.003"),
        (" training.lr = 1 ", "training.lr: 0.01 -> 1.0"),
        ("phase.0.rounds=3", "phase.0.rounds: 2 -> 3"),
        ("phase.0.strategy=median", 'phase.0.strategy.name: "fedavg" -> "median"'),
        ("phase.0.strategy.lr=0.1", "phase.0.strategy.lr: left out -> 0.1"),
        ("phase.1.strategy.lr=0.1", "phase.1.strategy.lr: 0.01 -> 0.1"),
        ("data.limit_per_site=none", "data.limit_per_site: 500 -> left out"),
        ("data.holdout_limit=20", "data.holdout_limit: left out -> 20"),
        ("data.source=a/b=c.csv", 'data.source: "four-sites" -> "a/b=c.csv"'),
        ("federation.name=2024", 'federation.name: "sms-spam" -> "2024"'),
        ("federation.name=none", 'federation.name: "sms-spam" -> "none"'),
        ("federation.keep_updates=true", "federation.keep_updates: false -> true"),
        ("model.labels.1=junk", 'model.labels: ["ham", "spam"] -> ["ham", "junk"]'),
        ('model.labels=["a", "b"]', 'model.labels: ["ham", "spam"] -> ["a", "b"]'),
        ("model.adapter={ rank = 2 }", "model.adapter.rank: 4 -> 2"),
        ("model.adapter.site_ranks.amazon=2", "model.adapter.site_ranks.amazon: left out -> 2"),
        ("model.adapter.site_ranks={ amazon = 2 }", "model.adapter.site_ranks.amazon: left out -> 2"),
    ],
)
def test_an_override_changes_one_key(override: str, difference: str) -> None:
    assert differences(load(STUDY), load(STUDY, override)) == (difference,)


def test_an_override_of_phase_0_works_on_the_default_phase() -> None:
    changed = load("", "phase.0.rounds=2", "phase.0.strategy.momentum=0.9")
    assert changed.phases == (Phase(rounds=2, strategy=StrategyChoice(knobs={"momentum": 0.9})),)


def test_an_override_of_a_list_item_works_on_the_default_list() -> None:
    assert load("", "model.labels.0=bad").model.labels == ("bad", "positive")


def test_a_later_override_wins() -> None:
    assert load("", "training.lr=0.1", "training.lr=0.2").training.lr == 0.2


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("trainin.lr=1", "training"),
        ("training.learnin=1", "one of these names"),
        ("training.batchsize=8", "training.batch_size"),
        ("phase.0.round=8", "phase.0.rounds"),
        ("phase.2.rounds=8", "phase.1"),
        ("phase.-1.rounds=8", "phase.1"),
        ("phase.x=8", "phase.1"),
        ("model.labels.5=x", "model.labels.1"),
    ],
)
def test_an_unknown_key_of_an_override_is_refused_as_such(override: str, hint: str) -> None:
    error = refused(STUDY, override)
    assert error.what.startswith(f"--set {override}: ") and error.hint == hint


@pytest.mark.parametrize("override", ["training.lr=fast", "training.lr=-1", "training.lr.x=1", "training=3"])
def test_a_bad_value_of_an_override_is_blamed_on_the_override(override: str) -> None:
    assert refused(STUDY, override).what.startswith(f"--set {override}: ")


def test_a_bad_value_of_the_file_is_not_blamed_on_an_override() -> None:
    assert "studies/x.toml line 2" in refused("[training]\nlr = -1", "training.epochs=2").what


def test_a_good_override_mends_a_bad_file() -> None:
    assert load("[training]\nlr = -1", "training.lr=0.1").training.lr == 0.1


@pytest.mark.parametrize("override", ["", "=", "training.lr", "training..lr=1", ".=1", "a\udcff=1"])
def test_an_override_without_key_and_value_is_refused(override: str) -> None:
    assert "KEY=VALUE" in refused("", override).rule


# ------------------------------------------------------------------ documents, TOML, digests


def test_keys_that_may_be_left_out_are_left_out_by_default() -> None:
    """What makes leaving ``None`` out of documents and files lossless."""
    for section in (e.Federation, e.Adapter, e.Model, d.Partition, d.Data, t.Training, e.Privacy, e.Phase):
        hints = get_type_hints(section)
        optional = [field for field in fields(section) if NoneType in get_args(hints[field.name])]
        assert [field.default for field in optional] == [None] * len(optional)


def test_the_resolved_file_shows_every_key_and_simple_strategies_as_names() -> None:
    text = to_toml(load(STUDY))
    assert 'strategy = "fedavg"' in text and 'strategy = { name = "fedadam", lr = 0.01 }' in text
    assert tomllib.loads(text)["training"]["batch_size"] == 32


@pytest.mark.parametrize("key", ["training", "phase"])
def test_a_document_without_all_keys_is_refused(key: str) -> None:
    document = to_document(Experiment())
    del document[key]
    with pytest.raises(ExperimentError, match="lacks keys"):
        from_document(document)


def test_a_document_with_an_unknown_key_is_refused() -> None:
    with pytest.raises(ExperimentError, match="the experiment document: surprise is not a known key"):
        from_document({**to_document(Experiment()), "surprise": 1})


def test_the_digest_covers_everything_but_the_place_of_the_store() -> None:
    study = load(STUDY)
    moved = replace(study, federation=replace(study.federation, store="elsewhere"))
    assert experiment_digest(moved) == experiment_digest(study) != experiment_digest(load(STUDY, "federation.seed=8"))
    assert len(experiment_digest(study)) == 64


def test_one_site_and_all_sites_have_different_digests() -> None:
    one, everyone = (Experiment(phases=(Phase(sites_per_round=count),)) for count in (1, 1.0))
    assert experiment_digest(one) != experiment_digest(everyone)
    assert differences(one, everyone) == ("phase.0.sites_per_round: 1 -> 1.0",)


def test_equal_experiments_have_equal_digests_whoever_built_them() -> None:
    assert experiment_digest(Experiment(training=Training(epochs=2))) == experiment_digest(
        load("", "training.epochs=2")
    )
    assert experiment_digest(load("", "training.weight_decay=-0.0")) == experiment_digest(Experiment())


# ------------------------------------------------------------------ properties

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # time on a busy machine is no claim
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
SHARES = st.floats(0, 1, exclude_min=True, exclude_max=True)
POSITIVE = st.floats(0, 1e12, exclude_min=True)
COUNTS = st.integers(1, 10_000)
KNOBS = st.dictionaries(
    st.from_regex(r"[a-z_][a-zA-Z0-9_]{0,8}", fullmatch=True).filter(lambda key: key != "name"),
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    max_size=3,
)
CHOICES = st.builds(StrategyChoice, name=TEXTS, knobs=KNOBS)
PHASES = st.builds(
    Phase,
    name=TEXTS,
    rounds=COUNTS,
    sites_per_round=SHARES | COUNTS,
    strategy=CHOICES,
    channel=st.sampled_from(e.CHANNELS),
)
EXPERIMENTS = st.builds(
    Experiment,
    federation=st.builds(
        Federation,
        name=st.from_regex(r"[a-z0-9._-]{1,9}", fullmatch=True),
        seed=st.integers(0, 2**31 - 1),
        store=TEXTS,
        quorum=SHARES,
        deadline_s=POSITIVE,
        straggler_factor=st.none() | st.floats(1, 1e6),
        keep_updates=st.booleans(),
    ),
    model=st.builds(
        e.Model,
        base=TEXTS,
        labels=st.lists(TEXTS, min_size=2, max_size=4, unique=True).map(tuple),
        adapter=st.builds(
            e.Adapter,
            rank=st.integers(8, 1024),
            alpha=POSITIVE,
            layers=st.sampled_from(["all", "last:3"]),
            site_ranks=st.dictionaries(TEXTS, st.integers(1, 8), max_size=2),
        ),
    ),
    data=st.builds(
        d.Data,
        source=TEXTS,
        text=TEXTS,
        label=TEXTS,
        holdout=SHARES,
        server_holdout=SHARES,
        holdout_limit=st.none() | COUNTS,
        partition=st.builds(d.Partition, by=st.sampled_from(d.PARTITIONS), sites=COUNTS, alpha=POSITIVE, shards=COUNTS),
    )
    | st.builds(d.Data, limit_per_site=COUNTS),
    training=st.builds(Training, epochs=POSITIVE, lr=POSITIVE, head_lr=st.none() | POSITIVE, weight_decay=POSITIVE),
    virtual_time=st.builds(
        VirtualTime, examples_per_s=POSITIVE, mbit_per_s=st.none() | POSITIVE, dropout=SHARES, deadline_s=POSITIVE
    ),
    privacy=st.builds(e.Privacy, unit=st.sampled_from(e.UNITS), epsilon=POSITIVE, delta=SHARES, clip=POSITIVE),
    attack=st.builds(
        Attack,
        kind=st.sampled_from(["free-rider", "sign-flip"]),
        share=st.floats(0, 0.5),
        strength=st.none() | POSITIVE,
        trigger=TEXTS.filter(str.strip),
    ),
    phases=st.lists(PHASES, min_size=1, max_size=3).map(tuple),
)


@PATIENT
@given(EXPERIMENTS)
def test_every_experiment_survives_toml_and_the_wire(experiment: Experiment) -> None:
    for copy in (load(to_toml(experiment)), from_document(json.loads(json.dumps(to_document(experiment))))):
        assert copy == experiment and differences(copy, experiment) == ()
        assert experiment_digest(copy) == experiment_digest(experiment)


@PATIENT
@given(EXPERIMENTS, EXPERIMENTS)
def test_there_are_no_differences_exactly_when_the_documents_are_equal(a: Experiment, b: Experiment) -> None:
    assert (differences(a, b) == ()) == (json.dumps(to_document(a)) == json.dumps(to_document(b)))


@PATIENT
@given(st.text(), st.lists(st.text(), max_size=2))
def test_any_text_is_an_experiment_or_an_experiment_error(text: str, overrides: list[str]) -> None:
    try:
        load(text, *overrides)
    except ExperimentError as error:
        assert str(error) and error.to_json()["what"]


SECTIONS = ["federation", "model", "model.adapter", "data", "data.partition", "training", "privacy", "phase.0"]
LEAVES = [
    f"{section}.{field.name}"
    for section, made in zip(
        SECTIONS, (e.Federation, e.Model, e.Adapter, d.Data, d.Partition, t.Training, e.Privacy, e.Phase), strict=True
    )
    for field in fields(made)
]
TOML_VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats() | TEXTS | st.sampled_from([2**100, "all", "1979-05-27"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "lr", "rounds"]) | TEXTS, inner)
    ),
    max_leaves=4,
)


def _nested(key: str, value: object) -> dict[str, Any]:
    head, _, rest = key.partition(".")
    if head == "phase" and rest.startswith("0."):
        return {"phase": [_nested(rest[2:], value)]}
    return {head: _nested(rest, value) if rest else value}


@PATIENT
@given(st.sampled_from(LEAVES + SECTIONS), TOML_VALUES)
def test_any_value_of_a_known_key_is_an_experiment_or_an_experiment_error(key: str, value: object) -> None:
    try:
        experiment = read_experiment(_nested(key, value))
    except Misfit as misfit:
        assert str(misfit.at("here")) and misfit.at("here").to_json()["what"]
    else:
        assert isinstance(experiment, Experiment)


@PATIENT
@given(
    st.sampled_from(LEAVES), st.sampled_from(["=", "=0", "=1.5", "=none", "=x", "=[1]", "=nan", "={}", ".x=1", ".0=a"])
)
def test_any_override_of_a_known_key_is_an_experiment_or_an_experiment_error(key: str, value: str) -> None:
    try:
        load(STUDY, key + value)
    except ExperimentError as error:
        assert error.what.startswith("--set ")


@PATIENT
@given(st.sampled_from([leaf for leaf in LEAVES if len(leaf.rsplit(".", 1)[-1]) >= 3]), st.data())
def test_a_typo_in_a_key_gets_the_right_suggestion(leaf: str, data: st.DataObject) -> None:
    section, _, key = leaf.rpartition(".")
    at = data.draw(st.integers(0, len(key) - 2))
    typo = data.draw(
        st.sampled_from(
            [key[:at] + key[at + 1 :], key[:at] + key[at] + key[at:], key[:at] + key[at + 1] + key[at] + key[at + 2 :]]
        )
    )
    if typo not in {name.rsplit(".", 1)[-1] for name in LEAVES}:
        assert refused("", f"{section}.{typo}=1").hint == leaf


def test_every_default_comes_from_the_dataclasses() -> None:
    sections = [field for field in fields(Experiment) if field.default_factory is not MISSING]
    assert len(sections) == len(fields(Experiment))


def test_a_key_that_came_later_counts_only_where_it_is_set() -> None:
    """The digests are those of the version before these keys: what its ledgers know is still the same experiment."""
    assert experiment_digest(Experiment()) == "4731ed763c06f116d4faae4ef71ff95eabfe3964d416acb140434f761626c367"
    some = ("federation.evaluators=5", "data.partition.rows=21", "virtual_time.examples_per_s=1.0")
    for later in (
        *some,
        "attack.kind=scaling",
        "model.adapter.site_ranks.a=4",
        "model.adapter.residual=true",
        "model.adapter.own_rank=2",
    ):
        assert experiment_digest(load("", later)) != experiment_digest(Experiment())
        assert experiment_digest(load("", later, "federation.seed=8")) != experiment_digest(load("", later))


def test_housekeeping_is_no_part_of_the_experiment_and_is_written_only_where_it_is_set() -> None:
    tidy = load("", "retention.releases=20", "retention.held=0")
    assert experiment_digest(tidy) == experiment_digest(Experiment()) and tidy != Experiment()
    assert "retention" not in to_toml(Experiment())
    assert to_toml(tidy).count("[retention]\nreleases = 20\nheld = 0\n") == 1
    assert load(to_toml(tidy)) == tidy
    assert load(to_toml(tidy), "retention.releases=none", "retention.held=none") == Experiment()


def test_a_section_that_is_written_only_where_it_is_set_changes_no_resolved_file_that_lacks_it() -> None:
    assert "transport" not in to_toml(Experiment()) and "transport" not in to_toml(load("", "transport.codec=float32"))
    assert experiment_digest(load("", "transport.codec=float32")) == experiment_digest(Experiment())
    coded = load('[transport]\ncodec = "top-k"\nkeep = 0.1')
    written = '[transport]\ncodec = "top-k"\nblock = 64\nkeep = 0.1\nerror_feedback = true\n'
    assert written in to_toml(coded) and load(to_toml(coded)) == from_document(to_document(coded)) == coded
    assert experiment_digest(coded) != experiment_digest(load("", "transport.codec=top-k"))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (("attack.kind=sign-flip", "transport.codec=int8"), "transport.codec is float32 where hostile sites change"),
        (
            ("data.partition.by=virtual", "transport.codec=int8"),
            "transport.error_feedback is false where sites are vir",
        ),
    ],
)
def test_a_codec_that_does_not_fit_the_rest_is_refused(settings: tuple[str, ...], why: str) -> None:
    with pytest.raises(ExperimentError, match=why):
        load("", *settings)


def test_a_codec_fits_attacks_on_rows_and_virtual_sites_that_keep_nothing() -> None:
    assert load("", "attack.kind=label-flip", "transport.codec=int8").transport.codec == "int8"
    load("", "data.partition.by=virtual", "transport.codec=int8", "transport.error_feedback=false")


def test_ranks_by_site_are_a_table_in_its_section_whose_order_does_not_matter() -> None:
    ranks = load('[model.adapter]\nsite_ranks = { movie = 8, amazon = 4, "a b" = 1 }')
    assert 'site_ranks = { "a b" = 1, amazon = 4, movie = 8 }\n' in to_toml(ranks)
    other = load('[model.adapter.site_ranks]\namazon = 4\n"a b" = 1\nmovie = 8')
    assert experiment_digest(other) == experiment_digest(ranks) and other == ranks
    assert (ranks.model.adapter.rank_of("amazon"), ranks.model.adapter.rank_of("nyt")) == (4, 8)


@pytest.mark.parametrize(
    ("text", "line", "rule"),
    [
        ("[model.adapter]\nrank = 4\nsite_ranks = { a = 8 }", 3, "between 1 and rank = 4"),
        ("[model.adapter]\nsite_ranks = { a = 0 }", 2, "between 1 and rank = 8"),
        ("[model.adapter]\nsite_ranks = 4", 2, "a table such as"),
        ("[model.adapter]\nsite_ranks = { a = 4.0 }", 2, "a whole number"),
        ('[model.adapter]\nkind = "full"\nsite_ranks = { a = 4 }', 3, 'left out with kind = "full"'),
    ],
)
def test_ranks_that_no_site_can_have_are_refused_with_their_line(text: str, line: int, rule: str) -> None:
    error = refused(text)
    assert f"line {line}: model.adapter.site_ranks" in error.what and rule in error.rule
