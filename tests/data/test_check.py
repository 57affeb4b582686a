"""What ``fedrelease data check`` understands of rows: hand-made files with hand-counted answers."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from importlib import util
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import GOOD, PLAIN, make_rows, sentence

from fedrelease.data.check.checking import Checked, Wishes, check
from fedrelease.data.check.findings import Finding
from fedrelease.data.check.language import guess_languages
from fedrelease.data.check.texts import lengths_of
from fedrelease.data.plan import plan_sites
from fedrelease.data.sources import load_table
from fedrelease.errors import DataError, FedreleaseError, ModelError
from fedrelease.experiment import Data, Experiment, Model, Partition
from fedrelease.experiment_file import load_experiment

ROWS = (
    ("a good film", "good"),  # line 2
    ("a bad film", "bad"),
    ("a good film", "good"),  # line 4: a copy of line 2
    ("A  Good film", "good"),  # line 5: but for case and spaces one of line 2
    ("a bad film", "good"),  # line 6: line 3 with another label
    ("so so", "Good"),  # line 7: a label that is another's but for its case
)


def written(folder: Path, rows: Sequence[Sequence[str]], header: str = "text,label") -> Path:
    path = folder / "rows.csv"
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n", encoding="utf-8")
    return path


def checked(path: Path, *, cache: Path | None = None, **wishes: object) -> Checked:
    return check(str(path), Wishes(**wishes), cache=cache or path.parent / "cache")  # type: ignore[arg-type]


def about(found: Checked, words: str) -> Finding:
    """The one finding that says so."""
    (only,) = [finding for finding in found.findings if words in finding.what]
    return only


def test_copies_contradictions_and_labels_that_are_alike_are_found_with_their_lines(tmp_path: Path) -> None:
    found = checked(written(tmp_path, ROWS))
    assert about(found, "whose text was there before: 2").lines == (4, 6)
    assert about(found, "differ from an earlier one in case and spaces only: 1").lines == (5,)
    assert about(found, "several labels: 1").lines == (3, 6)
    assert about(found, "labels that differ in case").lines == (7,)
    assert found.texts.labels == {"good": 4, "bad": 1, "Good": 1}
    assert 'labels = ["bad", "good"]' in found.toml
    assert found.ok


def test_lines_are_those_of_an_editor_where_a_text_has_several(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,label\n"two\nlines",a\nplain,b\n,a\n')
    assert about(checked(path), "'text' is missing").lines == (5,)


@pytest.mark.parametrize(
    ("header", "rows", "text", "label", "site"),
    [
        ("text,label", [("a film", "x"), ("b film", "y")], "text", "label", None),
        ("id,Review,Stars", [("1", "good film", "5"), ("2", "bad film", "1")], "Review", "Stars", None),
        (
            "n,said,kind,partner",
            [("1", "a b c d e", "x", "p"), ("2", "f g h i j", "y", "q")] * 9,
            "said",
            "kind",
            "partner",
        ),
    ],
)
def test_text_label_and_site_are_guessed_by_name_and_else_by_what_they_hold(
    tmp_path: Path, header: str, rows: list[tuple[str, ...]], text: str, label: str, site: str | None
) -> None:
    roles = checked(written(tmp_path, rows, header)).roles
    assert (roles.text.column, roles.label.column, roles.site) == (text, label, site)
    assert roles.text.guessed and roles.label.guessed


def test_a_named_column_is_not_guessed_and_one_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, ROWS)
    assert not checked(path, text="text").roles.text.guessed
    with pytest.raises(DataError, match="no column 'stars'; its columns are: text, label"):
        checked(path, label="stars")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-2"], "whole numbers"),
        (["1", "2.5"], "numbers"),
        (["a", "b", "a", "b"], "names"),
        (["a film of words", "another film of words"], "text"),
        (["", ""], "nothing"),
    ],
)
def test_a_columns_kind_is_what_all_of_its_values_are(tmp_path: Path, values: list[str], kind: str) -> None:
    found = checked(written(tmp_path, [(value, "x") for value in values], "own,label"))
    assert found.columns[0].kind == kind


def test_json_columns_have_kinds_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = {"text": "a", "flag": True, "many": [1], "odd": 1, "gone": None}
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "odd": [2]}) + "\n")
    kinds = {column.name: column.kind for column in checked(path).columns}
    assert kinds == {"text": "names", "flag": "true or false", "many": "lists", "odd": "mixed", "gone": "nothing"}


def test_lengths_are_the_median_the_95th_percentile_and_the_longest() -> None:
    lengths = lengths_of(list(range(1, 101)))
    assert lengths is not None and (lengths.median, lengths.share_95, lengths.longest) == (50.5, 95, 100)
    alone = lengths_of([7])
    assert alone is not None and (alone.median, alone.share_95, alone.longest) == (7, 7, 7)
    assert lengths_of([]) is None


def test_tokens_are_counted_with_a_base_that_is_here_and_uncut(tmp_path: Path, tiny_base: Path) -> None:
    rows = [(" ".join(["film"] * count), "x" if count % 2 else "y") for count in (1, 2, 300)]
    found = checked(written(tmp_path, rows), base=str(tiny_base))
    assert found.tokens is not None and (found.tokens.median, found.tokens.longest) == (4, 302)  # [CLS] and [SEP] too
    with pytest.raises(ModelError):
        checked(written(tmp_path, rows), base="no-such-base")


def test_a_file_without_a_header_is_told_to_have_none(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a very long and warm and funny film,1\nanother,0\n")
    assert about(checked(path), "looks like a row").lines == (1,)


def test_a_wrong_decoding_is_told(tmp_path: Path) -> None:
    found = checked(written(tmp_path, [("un cafÃ© noir", "x"), ("un café noir", "y"), ("caf\ufffd", "x")]))
    assert about(found, "decoded wrongly").lines == (2, 4)


def experiment(path: Path, labels: Sequence[str] = ("negative", "positive"), **data: object) -> Experiment:
    return Experiment(model=Model(labels=tuple(labels)), data=Data(source=str(path), **data))  # type: ignore[arg-type]


def test_rows_are_dealt_out_as_the_experiment_does(tmp_path: Path) -> None:
    path = make_rows(tmp_path / "rows.csv", sites=("a", "b"), rows=40)
    wanted = experiment(path, server_holdout=0.1)
    dealt = checked(path, experiment=wanted).dealt
    plan = plan_sites(wanted, load_table(wanted.data, wanted.model.labels, cache=tmp_path))
    assert dealt is not None and dealt.server == len(plan.server) == 8
    assert {name: site.train for name, site in dealt.sites.items()} == {
        name: len(site.train) for name, site in plan.sites.items()
    }
    assert dealt.two_sites == dealt.in_both == ()


def test_a_text_at_two_sites_is_found_there_and_in_hold_outs(tmp_path: Path) -> None:
    numbers = random.Random(3)
    texts = list(dict.fromkeys(sentence("positive", numbers) for _ in range(60)))[:40]
    rows = [(text, ("negative", "positive")[place % 2], "a") for place, text in enumerate(texts)]
    rows += [(text.upper(), label, "b") for text, label, _ in rows[:30]]  # the same but for their case
    rows += [(f"{text} only here", label, "b") for text, label, _ in rows[30:40]]
    path = written(tmp_path, rows, "text,label,site")
    dealt = checked(path, experiment=experiment(path, holdout=0.3)).dealt
    assert dealt is not None
    assert dealt.two_sites == (*range(2, 32), *range(42, 72))
    wanted = experiment(path, holdout=0.3)
    plan = plan_sites(wanted, load_table(wanted.data, wanted.model.labels, cache=tmp_path))
    trained = {rows[row][0].lower() for site in plan.sites.values() for row in site.train}
    held = sorted(row for site in plan.sites.values() for row in site.holdout)
    assert dealt.in_both == tuple(row + 2 for row in held if rows[row][0].lower() in trained) != ()


def test_a_partners_own_file_needs_no_column_of_sites(tmp_path: Path) -> None:
    rows = [(f"film {number} was {GOOD[number % 4]}", ("negative", "positive")[number % 2]) for number in range(40)]
    path = written(tmp_path, rows)
    dealt = checked(path, experiment=experiment(path)).dealt
    assert dealt is not None and dealt.own and list(dealt.sites) == ["here"]


def test_labels_that_the_experiment_lacks_are_named_with_their_lines(tmp_path: Path) -> None:
    path = written(tmp_path, [*ROWS, ("a film", "0"), ("a book", "1.0"), *ROWS[:2]])
    found = checked(path, experiment=experiment(path, ("good", "fine")))
    assert about(found, "does not have: 'bad', 'Good'").lines == (3, 7, 11)
    assert not found.ok and found.dealt is None


def test_what_the_experiment_refuses_is_one_more_error(tmp_path: Path) -> None:
    rows = [*((f"film {n}", ("negative", "positive")[n % 2], "a") for n in range(10)), ("alone", "negative", "b")]
    path = written(tmp_path, rows, "text,label,site")
    found = checked(path, experiment=experiment(path))
    assert found.findings[0].level == "error" and "site b would have 1 row" in found.findings[0].what


def test_virtual_sites_draw_from_a_pool_and_that_is_what_is_told(tmp_path: Path) -> None:
    path = make_rows(tmp_path / "rows.csv", sites=("a",), rows=40)
    dealt = checked(path, experiment=experiment(path, partition=Partition(by="virtual", sites=1000))).dealt
    assert dealt is not None and list(dealt.sites) == ["pool"]


@pytest.mark.parametrize("site", [True, False])
def test_the_lines_to_paste_make_an_experiment_that_takes_the_rows(tmp_path: Path, site: bool, tiny_base: Path) -> None:
    path = make_rows(tmp_path / 'odd "name".csv', sites=("a", "b"), rows=24)
    if not site:
        path.write_text("".join(f"{line.rpartition(',')[0]}\n" for line in path.read_text().splitlines()))
    found = checked(path, base=str(tiny_base))
    file = tmp_path / "pasted.toml"
    file.write_text(found.toml)
    pasted = load_experiment(file)
    assert (pasted.data.partition.by, pasted.training.max_length) == ("column" if site else "iid", 16)
    assert checked(path, experiment=pasted).ok
    assert sorted(pasted.model.labels) == ["negative", "positive"]


def test_a_label_column_of_texts_is_told_and_not_shown(tmp_path: Path) -> None:
    rows = [(str(number), f"a private text about {number} things") for number in range(30)]
    found = checked(written(tmp_path, rows, "number,text"), label="text", text="number")
    assert not found.labels_are_names and found.toml == ""
    assert not [finding for finding in found.findings if "private" in finding.what]


def test_languages_are_guessed_where_the_package_is_here() -> None:
    pytest.importorskip("py3langid", reason="the optional extra 'language' is not installed")
    german = ["Das ist ein sehr schöner und warmer Film gewesen"] * 30
    english = ["This was a very beautiful and warm film after all"] * 10
    found = guess_languages([*german, *english])
    assert (found.of, found.shares) == ("languages", {"de": 0.75, "en": 0.25})


def test_without_the_package_scripts_are_told_by_the_names_of_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    found = guess_languages(["ein Film", "фильм хороший", "фильм плохой", "良い映画"])
    assert (found.of, found.shares) == ("scripts", {"cyrillic": 0.5, "latin": 0.25, "cjk": 0.25})


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300), suffix=st.sampled_from([".csv", ".jsonl", ".parquet"]))
def test_no_bytes_at_all_make_anything_but_an_answer_or_a_refusal(
    data: bytes, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(data)
    try:
        assert not checked(path).ok or checked(path).texts.items
    except FedreleaseError as error:
        assert error.what and error.hint


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(
        st.one_of(st.text(max_size=12), st.none(), st.integers(), st.lists(st.text(max_size=3), max_size=2)), min_size=1
    )
)
def test_no_cells_at_all_make_anything_but_an_answer(
    texts: list[object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "cells.jsonl"
    path.write_text("".join(json.dumps({"text": text, "label": text, PLAIN[0]: 1}) + "\n" for text in texts))
    found = checked(path)
    if found.tags:  # words with a tag each
        assert all(isinstance(text, list) for text in texts)
        return
    usable = [text for text in texts if isinstance(text, str) and text.strip() and "\0" not in text]
    assert len(found.texts.items) == len(usable)


def test_rows_of_a_language_model_need_no_label(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"speech {n} of a president"}) + "\n" for n in range(40)))
    wanted = experiment(path, partition=Partition(by="iid", sites=2))
    found = checked(path, experiment=replace(wanted, model=replace(wanted.model, task="causal-lm")))
    assert found.ok and found.dealt is not None and len(found.dealt.sites) == 2
    path.write_text(path.read_text() + '{"text": 5}\n')
    found = checked(path, experiment=replace(wanted, model=replace(wanted.model, task="causal-lm")))
    assert about(found, "'text' is something which is not text").lines == (41,)


def test_rows_of_tags_are_read_as_their_task_does(tmp_path: Path) -> None:
    path, model = tmp_path / "rows.jsonl", Model(task="token-classification", labels=("O", "B-person"))
    rows = [{"text": [f"Ada{n}", "wrote"], "label": [("B-person", "O")[n % 2], "O"]} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"text": ["Ada"], "label": ["O", "O"]}]))
    wanted = replace(experiment(path, partition=Partition(by="iid", sites=2)), model=model)
    assert about(checked(path, experiment=wanted), "has 1 words and 'label' has 2 labels").lines == (41,)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = checked(path, experiment=wanted)
    assert found.ok and found.dealt is not None and found.words is not None and found.words.longest == 2


def test_images_are_told_by_their_pixels_and_have_no_words(tmp_path: Path) -> None:
    found = check("digits", Wishes(), cache=tmp_path)
    assert found.ok and len(found.texts.items) == 1797 and len(found.texts.labels) == 10
    assert found.words is None and found.languages is None
