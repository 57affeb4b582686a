"""What a site lets a server ask: the rules alone, then a real ClientApp behind them with a site's rows on disk."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as some
from tiny import GOOD, PLAIN, experiment_text, make_rows

from fedrelease.adapter import Adapter, AdapterChange
from fedrelease.client.app import resident_base, resident_model
from fedrelease.client.deployment.folder import SiteFolder, SiteSettings, open_site_folder, site_toml
from fedrelease.client.deployment.guard import answered, check_app, check_room, limited
from fedrelease.client.deployment.telling import told
from fedrelease.client.ledger import Ledger
from fedrelease.client.policy import (
    Policy,
    bounded,
    check_bytes,
    check_plan,
    check_request,
    check_steps,
    refusals,
    told_answer,
)
from fedrelease.client.policy_words import in_words
from fedrelease.deployment.bundle import bundle
from fedrelease.errors import (
    BudgetExceeded,
    DataError,
    ExperimentError,
    ModelError,
    PolicyRefused,
    StoreError,
    UpdateRefused,
)
from fedrelease.experiment import Experiment, Model, Phase, Privacy, StrategyChoice
from fedrelease.experiment_file import load_experiment
from fedrelease.messages import Answer, Request, parse_answer, request_text
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import trainable_state

BASE = "b" * 64
METRICS = ("exact", "noised", "withheld")


def request(*overrides: str, base: str = BASE, round: int = 1, **directives: float | str | bool) -> Request:
    experiment = load_experiment(None, list(overrides), text="")
    return Request(experiment=experiment, version="0.0.1", round=round, base=base, directives=directives)


# The rules alone


@pytest.mark.parametrize(
    ("asked", "policy", "reason"),
    [
        (request("privacy.epsilon=20"), Policy(), "policy.epsilon: at most 8, asked 20"),
        (request("privacy.delta=1e-4"), Policy(), "policy.delta: at most 1e-05, asked 0.0001"),
        (request("privacy.clip=50"), Policy(), "policy.clip: at most 10, asked 50"),
        (request("privacy.unit=none"), Policy(), "policy.unit: at least example, asked none"),
        (
            request(),
            Policy(tasks=("image-classification",)),
            "policy.tasks: image-classification, asked text-classification",
        ),
        (request("model.adapter.kind=full"), Policy(), "policy.adapters: lora, lora-sb, asked full"),
        (request("model.adapter.rank=65"), Policy(), "policy.rank: at most 64, asked 65"),
        (request(tell_loss=True), Policy(directives=("freeze",)), "policy.directives: freeze, asked tell_loss"),
        (request(tell_fisher=True), Policy(directives=()), "policy.directives: none, asked tell_fisher"),
        (
            request(base="c" * 64),
            Policy(bases=(BASE,)),
            f"policy.bases: only one of those named ({'b' * 16}), asked {'c' * 16}",
        ),
    ],
)
def test_a_refusal_names_the_key_the_bound_and_what_was_asked(asked: Request, policy: Policy, reason: str) -> None:
    assert refusals(policy, asked) == (reason,)
    with pytest.raises(PolicyRefused) as refused:
        check_request(policy, asked)
    assert refused.value.what == reason


def test_all_rules_that_are_broken_are_named_at_once() -> None:
    asked = request("privacy.epsilon=9", "model.adapter.rank=100", tell_loss=True)
    assert [reason.partition(":")[0] for reason in refusals(Policy(), asked)] == [
        "policy.epsilon",
        "policy.rank",
        "policy.directives",
    ]


def test_the_built_in_experiment_keeps_to_the_default_policy() -> None:
    check_plan(Policy(), Experiment(), base=BASE)
    check_request(Policy(), request())


def test_without_named_bases_a_site_keeps_to_the_first_that_it_trained() -> None:
    assert refusals(Policy(), request(), pinned=None) == refusals(Policy(), request(), pinned=BASE) == ()
    (reason,) = refusals(Policy(), request(), pinned="c" * 64)
    assert reason.startswith("policy.bases: only the first that this site trained")


def test_an_adapter_that_grows_in_a_later_phase_is_refused_before_the_first() -> None:
    grows = Experiment(phases=(Phase(rounds=1), Phase(rounds=1, adapter=AdapterChange(rank=128))))
    assert refusals(Policy(), replace(request(), experiment=grows)) == ("policy.rank: at most 64, asked 128",)


def test_a_pair_of_the_sites_own_may_not_be_wider_than_the_policys_rank_either() -> None:
    wide = Experiment(model=Model(adapter=Adapter(own_rank=65)))
    assert refusals(Policy(), replace(request(), experiment=wide)) == ("policy.rank: at most 64, asked 65",)


def test_what_a_strategy_will_ask_for_is_known_before_the_first_round() -> None:
    phases = (Phase(rounds=1), Phase(rounds=1, strategy=StrategyChoice(name="scaffold")))
    with pytest.raises(PolicyRefused, match="policy.directives: freeze, asked variate"):
        check_plan(Policy(directives=("freeze",)), Experiment(phases=phases), base=None)


@given(
    epsilon=some.floats(0.01, 100),
    most=some.floats(0.01, 100),
    asked=some.sampled_from(METRICS),
    own=some.sampled_from(METRICS),
)
def test_no_request_ever_gets_more_epsilon_or_plainer_metrics_than_the_policy(
    epsilon: float, most: float, asked: str, own: str
) -> None:
    privacy = Privacy(epsilon=epsilon, metrics=asked)
    wanted = replace(request(), experiment=Experiment(privacy=privacy))
    policy = Policy(epsilon=most, metrics=own)
    assert (refusals(policy, wanted) == ()) == (epsilon <= most)
    strictness = METRICS.index(bounded(policy, wanted).experiment.privacy.metrics)
    assert strictness == max(METRICS.index(asked), METRICS.index(own))


def test_a_request_that_is_strict_enough_is_not_changed_at_all() -> None:
    asked = request()
    assert bounded(Policy(), asked) is asked


def test_steps_and_bytes_have_bounds_and_the_number_of_steps_is_not_told() -> None:
    check_steps(Policy(steps=10), 10)
    check_bytes(Policy(megabytes=1.0), 1_000_000)
    with pytest.raises(PolicyRefused, match="policy.steps: at most 10 a round, asked for more"):
        check_steps(Policy(steps=10), 11)
    with pytest.raises(PolicyRefused, match="policy.megabytes: at most 1, asked 1.5"):
        check_bytes(Policy(megabytes=1.0), 1_500_000)


def test_without_privacy_nothing_of_a_hold_out_leaves_unless_metrics_are_exact() -> None:
    answer = Answer(
        site="a", examples=3, metrics={"accuracy_private": 0.5}, confusion=((1.0, 0.0), (0.0, 2.0)), loss=0.1
    )
    asked = request("privacy.unit=none")
    assert told_answer(Policy(), asked, answer, step="evaluate") == Answer(site="a", metrics={})
    assert told_answer(Policy(metrics="exact"), asked, answer, step="evaluate") == answer


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (Policy(tell_examples=False), {"steps": 2.0, "loss": 0.3}),
        (Policy(tell_losses=False), {"steps": 2.0}),
        (Policy(tell_metrics=False), {"steps": 2.0}),
    ],
)
def test_what_the_policy_keeps_here_is_not_in_an_answer(policy: Policy, kept: dict[str, float]) -> None:
    answer = Answer(site="a", examples=3, metrics={"steps": 2.0, "loss": 0.3}, loss=0.5)
    less = told_answer(policy, request("privacy.unit=none"), answer, step="train")
    assert dict(less.metrics) == kept
    assert (less.examples is None) == (not policy.tell_examples) and (less.loss is None) == (not policy.tell_losses)


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("epsilonn = 3", "unknown key policy.epsilonn"),
        ("epsilon = -1", "policy.epsilon is out of bounds"),
        ("epsilon = nan", "policy.epsilon is out of bounds"),
        ("epsilon = inf", "policy.epsilon is out of bounds"),
        ('epsilon = "8"', "policy.epsilon is of another type"),
        ("tell_items = 1", "policy.tell_items is of another type"),
        ('metrics = "all"', "policy.metrics is out of bounds"),
        ('directives = ["tell_all"]', "policy.directives is out of bounds"),
        ("tasks = [1]", "policy.tasks is of another type"),
    ],
)
def test_a_policy_that_is_misspelt_is_refused_and_not_ignored(tmp_path: Path, line: str, rule: str) -> None:
    (tmp_path / "site.toml").write_text(f'site = "a"\nserver = "h:1"\n[policy]\n{line}\n')
    with pytest.raises(ExperimentError, match=rule):
        open_site_folder(tmp_path)


def test_the_policy_that_is_written_is_the_one_that_is_read(tmp_path: Path) -> None:
    wished = SiteSettings(
        site="a", server="h:1", policy=Policy(epsilon=2.5, bases=(BASE,), tell_items=True, directives=())
    )
    (tmp_path / "site.toml").write_text(site_toml(wished))
    assert open_site_folder(tmp_path).settings == wished


def test_a_policy_in_words_says_where_it_leaves_rows_open() -> None:
    words = dict(in_words(Policy(unit="none"), pinned=None))
    assert "WITHOUT privacy" in words["unit"]
    assert dict(in_words(Policy(), pinned=BASE))["bases"] == f"only {'b' * 16}, the first that was trained here"


# A site behind the rules


@pytest.fixture(autouse=True)
def task(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Flower refuses to make messages outside of a task; and no test sees another's resident model."""
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    yield
    resident_base.cache_clear()
    resident_model.cache_clear()


@pytest.fixture
def site(tmp_path: Path, tiny_base: Path) -> SiteFolder:
    make_rows(tmp_path / "diagnoses.csv", sites=("a",), rows=40)
    settings = SiteSettings(
        site="a", server="h:1", source=str(tmp_path / "diagnoses.csv"), base=str(tiny_base), bundle=bundle().digest
    )
    return SiteFolder(folder=tmp_path / "a", settings=settings)


def with_policy(site: SiteFolder, **rules: object) -> SiteFolder:
    policy = replace(site.settings.policy, **rules)  # type: ignore[arg-type]  # names of fields
    return replace(site, settings=replace(site.settings, policy=policy))


def asked(tiny_base: Path, tmp_path: Path, *overrides: str, round: int = 1) -> Request:
    file = tmp_path / "experiment.toml"
    file.write_text(experiment_text(tiny_base, Path("elsewhere.csv"), rounds="2"), encoding="utf-8")
    digest = resident_base(str(tiny_base)).digest
    return Request(
        experiment=load_experiment(file, ["privacy.accountant=rdp", *overrides]),
        version="0.0.1",
        round=round,
        base=digest,
        directives={},
    )


def ask(site: SiteFolder, request: Request, tiny_base: Path, *, kind: str = "train") -> Message:
    state = trainable_state(resident_model(str(tiny_base), request.experiment.model))
    records = {"arrays": ArrayRecord(state), "config": ConfigRecord({"request": request_text(request)})}
    message = Message(RecordDict(records), dst_node_id=1, message_type=kind)
    return answered(site, message, context())


def context() -> Context:
    return Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})


def test_a_downgraded_policy_is_refused_before_a_row_is_read_or_privacy_is_charged(
    site: SiteFolder, tiny_base: Path, tmp_path: Path
) -> None:
    wanted = asked(tiny_base, tmp_path, "privacy.unit=example", "privacy.epsilon=20")
    with pytest.raises(PolicyRefused, match="policy.epsilon: at most 8, asked 20"):
        ask(site, wanted, tiny_base)
    assert not site.prepared.exists() and not site.home.exists() and site.pinned_base() is None


def test_a_site_trains_within_its_policy_and_pins_the_base(site: SiteFolder, tiny_base: Path, tmp_path: Path) -> None:
    wanted = asked(tiny_base, tmp_path, "privacy.unit=example", "privacy.epsilon=8")
    answer = parse_answer(str(ask(site, wanted, tiny_base).content.config_records["config"]["answer"]))
    assert answer.receipt is not None and answer.receipt.noise == "secure"
    assert site.pinned_base() == open_base(str(tiny_base), cache=tiny_base).digest
    with pytest.raises(PolicyRefused, match="policy.bases: only the first that this site trained"):
        ask(site, replace(wanted, base="c" * 64), tiny_base)


def test_the_ledger_bounds_all_experiments_of_a_site_together(
    site: SiteFolder, tiny_base: Path, tmp_path: Path
) -> None:
    first = asked(tiny_base, tmp_path, "privacy.unit=example", "privacy.epsilon=8", "federation.name=one")
    other = asked(tiny_base, tmp_path, "privacy.unit=example", "privacy.epsilon=8", "federation.name=other")
    for round in (1, 2):
        ask(site, replace(first, round=round), tiny_base)
    with pytest.raises(BudgetExceeded) as refused:
        ask(site, other, tiny_base)
    assert len(Ledger(site.home / "ledger.jsonl").entries()) == 2
    assert str(tmp_path) not in told(refused.value, site) and "budget has no room" in told(refused.value, site)


def test_exact_metrics_become_noised_ones_at_a_site_that_allows_no_others(
    site: SiteFolder, tiny_base: Path, tmp_path: Path
) -> None:
    wanted = asked(tiny_base, tmp_path, "privacy.unit=example", "privacy.epsilon=8", "privacy.metrics=exact")
    answer = parse_answer(str(ask(site, wanted, tiny_base, kind="evaluate").content.config_records["config"]["answer"]))
    assert answer.receipt is not None and answer.receipt.pool == "holdout" and answer.loss is None
    withheld = with_policy(site, metrics="withheld")
    answer = parse_answer(
        str(ask(withheld, wanted, tiny_base, kind="evaluate").content.config_records["config"]["answer"])
    )
    assert answer == Answer(site="a", metrics={})


def test_more_steps_than_the_policy_allows_are_refused_before_the_charge(
    site: SiteFolder, tiny_base: Path, tmp_path: Path
) -> None:
    wanted = asked(tiny_base, tmp_path, "privacy.unit=example", "privacy.epsilon=8", "training.epochs=50")
    with pytest.raises(PolicyRefused, match="policy.steps: at most 3 a round"):
        ask(with_policy(site, steps=3), wanted, tiny_base)
    assert not (site.home / "ledger.jsonl").exists()


def test_a_round_ends_when_its_seconds_are_over() -> None:
    with pytest.raises(PolicyRefused, match="policy.seconds: at most 0.05 a round"), limited(0.05):
        while True:
            pass


@pytest.mark.parametrize("name", ["/etc", "..", "~/models", "somebody/model", "file:///etc/passwd"])
def test_a_server_cannot_name_a_folder_of_the_site_or_a_download_as_the_base(
    site: SiteFolder, tiny_base: Path, tmp_path: Path, name: str
) -> None:
    experiment = asked(tiny_base, tmp_path).experiment
    experiment = replace(experiment, model=replace(experiment.model, base=name))
    text = request_text(Request(experiment=experiment, version="0.0.1", round=1, base=BASE, directives={}))
    elsewhere = replace(site, settings=replace(site.settings, base="", policy=Policy(unit="none")))
    message = Message(RecordDict({"config": ConfigRecord({"request": text})}), dst_node_id=1, message_type="train")
    with pytest.raises(PolicyRefused, match="what base in site.toml names"):
        answered(elsewhere, message, context())


def test_another_app_than_the_agreed_one_is_refused(site: SiteFolder) -> None:
    check_app(site, bundle().digest)
    with pytest.raises(PolicyRefused, match="does not know the app"):
        check_app(site, "f" * 64)
    with pytest.raises(PolicyRefused, match="does not know the app"):
        check_app(replace(site, settings=replace(site.settings, bundle="e" * 64)), "e" * 64)


def test_a_first_query_says_who_this_is_what_runs_here_and_which_rule_is_broken(
    site: SiteFolder, tiny_base: Path, tmp_path: Path
) -> None:
    wanted = asked(tiny_base, tmp_path, "privacy.unit=example", "privacy.epsilon=20")
    facts = ask(site, wanted, tiny_base, kind="query").content.config_records["config"]
    assert (facts["site"], facts["bundle"]) == ("a", bundle().digest)
    assert str(facts["refused"]).startswith("policy.epsilon: at most 8, asked 20")


# What leaves when something fails


def test_of_a_row_that_cannot_be_read_nothing_leaves(site: SiteFolder, tiny_base: Path, tmp_path: Path) -> None:
    Path(site.settings.source).write_text("text,label\nMrs Miller has a secret illness,unheard-of\n")
    wanted = asked(tiny_base, tmp_path, "privacy.unit=example", "privacy.epsilon=8")
    with pytest.raises(DataError) as failed:
        ask(site, wanted, tiny_base)
    assert "unheard-of" in str(failed.value)  # the site's own log says it
    assert told(failed.value, site) == "the site's data cannot be used for this; its own log says why"


@pytest.mark.parametrize("word", [*GOOD[:2], *PLAIN[:2], "diagnoses", "csv"])
@pytest.mark.parametrize(
    "kind", [DataError, ModelError, ValueError, KeyError, OSError, UnicodeDecodeError, ExperimentError, RuntimeError]
)
def test_no_word_of_an_error_that_may_hold_a_row_or_a_place_leaves(
    site: SiteFolder, kind: type[Exception], word: str
) -> None:
    text = f"{word} at /data/{word}/diagnoses.csv"
    error = UnicodeDecodeError("utf-8", text.encode(), 0, 1, text) if kind is UnicodeDecodeError else kind(text)
    assert told(error, site) == (
        "the site's data cannot be used for this; its own log says why"
        if kind is DataError
        else f"the site failed ({kind.__name__}); its own log says why"
    )


def test_the_value_of_an_error_stays_here_and_its_rule_is_told(site: SiteFolder) -> None:
    error = ModelError("this site's base is not the server's", value="Mrs Miller", rule="the digest is another")
    assert told(error, site) == "this site's base is not the server's; the digest is another"


def test_a_server_learns_nothing_by_guessing_names_in_what_it_sends(site: SiteFolder) -> None:
    guessed, other = (UpdateRefused("unknown keys", value=name) for name in ("diagnoses.csv", "patients.csv"))
    assert told(guessed, site).replace("diagnoses", "patients") == told(other, site)


def test_a_site_without_room_for_its_answer_refuses_before_it_is_charged(tmp_path: Path) -> None:
    check_room(tmp_path, least_bytes=0)
    with pytest.raises(StoreError, match="the disk is full.*before anything is charged"):
        check_room(tmp_path, least_bytes=1 << 60)
