"""Sources: every reader, and every way in which a row can be bad."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from fedrelease.data.builtin import BUILT_IN
from fedrelease.data.cells import Example
from fedrelease.data.readers import kind_of
from fedrelease.data.sources import Table, load_table, source_digest, table_digest
from fedrelease.errors import DataError
from fedrelease.experiment import Data, Partition

LABELS = ("ham", "spam")
ROWS = [{"text": "hello, you", "label": "ham", "place": "a"}, {"text": "win now", "label": "spam", "place": "b"}]


def load(source: Path | str, *, by: str = "iid", column: str = "place", labels: tuple[str, ...] = LABELS) -> Table:
    data = Data(source=str(source), partition=Partition(by=by, column=column))
    return load_table(data, labels, cache=Path("/nonexistent"), fetch_missing=False)


def csv_file(folder: Path, text: str) -> Path:
    path = folder / "rows.csv"
    path.write_text(text, encoding="utf-8")
    return path


def jsonl_file(folder: Path, *lines: object) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def refused(source: Path | str, match: str, **options: str) -> DataError:
    with pytest.raises(DataError, match=match) as caught:
        load(source, **options)  # type: ignore[arg-type]
    return caught.value


def table_of(
    *texts: str, labels: tuple[int, ...] = (0, 1), columns: Mapping[str, tuple[str, ...]] | None = None
) -> Table:
    examples = tuple(Example(text=text, label=label) for text, label in zip(texts, labels, strict=True))
    return Table(examples=examples, columns=columns or {})


def test_csv_jsonl_parquet_and_datasets_folders_give_the_same_table(tmp_path: Path) -> None:
    import datasets
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "plain"))
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(str(tmp_path / "split"))
    written = csv_file(tmp_path, 'text,label,place\n"hello, you",ham,a\nwin now,spam,b\n')
    sources = [written, jsonl_file(tmp_path, *ROWS), *(tmp_path / name for name in ("rows.parquet", "plain", "split"))]
    tables = [load(source, by="column") for source in sources]
    assert tables[0] == table_of("hello, you", "win now", columns={"place": ("a", "b")})
    assert all(table == tables[0] for table in tables)


def test_a_datasets_folder_without_a_train_split_gives_all_splits_in_order_of_their_names(tmp_path: Path) -> None:
    import datasets

    splits = {"second": datasets.Dataset.from_list(ROWS[1:]), "first": datasets.Dataset.from_list(ROWS[:1])}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "split"))
    assert load(tmp_path / "split").texts == ("hello, you", "win now")


def test_class_labels_of_a_dataset_count_by_their_names(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["spam", "ham"])}
    )
    rows = [{"text": "hello", "label": 1}, {"text": "win", "label": 0}]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(str(tmp_path / "named"))
    assert load(tmp_path / "named").labels == (0, 1)  # LABELS is ("ham", "spam")
    assert load(tmp_path / "named", labels=("no", "yes")).labels == (1, 0)  # other names: indices as they are


def test_labels_are_names_or_indices_and_names_win(tmp_path: Path) -> None:
    rows = [{"text": "t", "label": label} for label in ("spam", " ham", 1, "0", 1.0, "1.0")]
    assert load(jsonl_file(tmp_path, *rows)).labels == (1, 0, 1, 0, 1, 1)
    rows = [{"text": "t", "label": label} for label in (1, "0")]
    assert load(jsonl_file(tmp_path, *rows), labels=("1", "0")).labels == (0, 1)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "", "label": "ham"}, "'text' is empty"),
        ({"text": " \n", "label": "ham"}, "'text' is empty"),
        ({"text": None, "label": "ham"}, "'text' is missing"),
        ({"label": "ham"}, "'text' is missing"),
        ({"text": 3, "label": "ham"}, "'text' is 3, which is not text"),
        ('{"text": NaN, "label": "ham"}', "'text' is missing"),
        ('{"text": "\\ud800", "label": "ham"}', "surrogate"),
        ({"text": "t", "label": None}, "'label' is missing"),
        ({"text": "t", "label": "eggs"}, "'label' is 'eggs', which is not one of ham, spam, or an index from 0 to 1"),
        ({"text": "t", "label": 2}, "'label' is 2,"),
        ({"text": "t", "label": -1}, "'label' is -1,"),
        ({"text": "t", "label": 0.5}, "'label' is 0.5,"),
        ({"text": "t", "label": True}, "'label' is True,"),
        ({"text": "t", "label": "9" * 5000}, "'label' is '999"),
        ('{"text": "t"', "not JSON"),
        ("[1]", "not a JSON object"),
    ],
)
def test_a_bad_row_refuses_the_source_with_file_line_and_reason(tmp_path: Path, row: object, reason: str) -> None:
    error = refused(jsonl_file(tmp_path, ROWS[0], "", row, ROWS[1]), r"rows\.jsonl line 3 cannot be used")
    assert reason in error.what
    assert error.hint == "mend or remove that row"


def test_the_first_of_many_bad_rows_is_named_and_the_others_are_counted(tmp_path: Path) -> None:
    source = csv_file(tmp_path, "text,label\nfine,ham\n,ham\nx,eggs\ny\n")
    assert "line 3 cannot be used: 'text' is empty; 2 more rows are bad" in refused(source, "line 3").what


def test_lines_of_csv_are_physical_lines(tmp_path: Path) -> None:
    source = csv_file(tmp_path, 'text,label\n"two\nlines",ham\n\nok,spam,extra\n')
    refused(source, "line 5 cannot be used: it has 3 cells and the header has 2")


def test_csv_with_an_open_quote_is_refused(tmp_path: Path) -> None:
    refused(csv_file(tmp_path, 'text,label\n"open,ham\n'), "line 2 cannot be used: not CSV")


def test_csv_may_start_with_a_byte_order_mark_and_end_its_lines_like_windows(tmp_path: Path) -> None:
    source = csv_file(tmp_path, "\ufefftext,label\r\nhi,ham\r\nwin,spam\r\n")
    assert load(source).texts == ("hi", "win")


def test_a_file_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"text,label\nhi,ham\ncaf\xe9,ham\n")
    refused(path, r"rows\.csv line 3 is not UTF-8 text")


@pytest.mark.parametrize("text", ["", "text,label\n", "text,label\n\n"])
def test_an_empty_csv_file_is_refused(tmp_path: Path, text: str) -> None:
    refused(csv_file(tmp_path, text), "holds no rows")


def test_an_empty_jsonl_file_is_refused(tmp_path: Path) -> None:
    refused(jsonl_file(tmp_path, "", "  "), "holds no rows")


def test_a_missing_column_is_refused_with_the_columns_that_are_there(tmp_path: Path) -> None:
    error = refused(csv_file(tmp_path, "body,label\nhi,ham\n"), "no column 'text'; its columns are: body, label")
    assert error.hint == "set [data] text to one of them"


def test_a_missing_partition_column_is_refused_with_another_way_to_partition(tmp_path: Path) -> None:
    error = refused(csv_file(tmp_path, "text,label\nhi,ham\n"), "no column 'place'", by="column")
    assert 'by = "iid"' in error.hint


def test_an_empty_partition_value_is_a_bad_row(tmp_path: Path) -> None:
    refused(csv_file(tmp_path, "text,label,place\nhi,ham,\n"), "line 2 cannot be used: 'place' is empty", by="column")


def test_a_repeated_csv_column_is_refused(tmp_path: Path) -> None:
    refused(csv_file(tmp_path, "text,label,text\nhi,ham,ho\n"), "the column text more than once")


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 and then nothing")
    refused(path, "not a readable Parquet file")


def test_bad_rows_of_parquet_are_named_by_row(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [*ROWS, {"text": None, "label": "ham", "place": "a"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    refused(tmp_path / "rows.parquet", r"rows\.parquet row 3 cannot be used: 'text' is missing")


def test_a_folder_that_datasets_did_not_write_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "not a datasets folder")


def test_a_missing_file_is_refused_with_the_folder_that_was_looked_in(tmp_path: Path) -> None:
    assert str(Path.cwd()) in refused("nowhere/rows.csv", "does not exist").hint


def test_a_file_of_another_kind_is_refused_with_the_kinds_that_work(tmp_path: Path) -> None:
    (tmp_path / "rows.xlsx").touch()
    assert ".bio, .conll, .csv, .iob, .jsonl, .parquet" in refused(tmp_path / "rows.xlsx", "cannot be read").rule


def test_what_is_neither_built_in_nor_a_path_is_a_hub_id() -> None:
    assert kind_of("somebody/some-data") == "hub"


def test_a_hub_id_that_cannot_be_loaded_is_refused_with_the_built_in_names(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def offline(name: str) -> None:
        raise ConnectionError(f"Couldn't reach {name!r} on the Hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    error = refused("somebody/some-data", "could not be loaded: Couldn't reach")
    assert ", ".join(sorted(BUILT_IN)) in error.hint
    assert "\n" not in str(error)


def test_relative_paths_start_at_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    csv_file(tmp_path, "text,label\nhi,ham\n")
    monkeypatch.chdir(tmp_path)
    assert load("rows.csv").texts == ("hi",)


def test_labels_that_do_not_fit_a_built_in_source_are_refused_with_the_right_ones() -> None:
    with pytest.raises(DataError) as caught:
        load_table(Data(source="sms-spam"), ("negative", "positive"), cache=Path("/nonexistent"))
    assert caught.value.hint == 'set [model] labels = ["ham", "spam"]'


def test_a_built_in_source_that_is_not_there_is_refused_when_fetching_is_not_allowed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sms-spam is not in the cache"):
        load_table(Data(source="sms-spam"), ("spam", "ham"), cache=tmp_path, fetch_missing=False)


def test_four_sites_keeps_clear_ratings_by_their_sign(tmp_path: Path) -> None:
    for name in ("amazonReviewSnippets", "movieReviewSnippets", "nytEditorialSnippets", "tweets"):
        lines = ["id\tsentiment\ttext", f'1\t0.5\tsaid "{name}', "2\t-0.49\tmeh", "3\t-2.1\tbad\u2028stuff", ""]
        (tmp_path / f"{name}_GroundTruth.txt").write_bytes("\r\n".join(lines).encode())
    rows = [row.values for row in BUILT_IN["four-sites"].read(tmp_path)]
    assert rows[0] == {"text": 'said "amazonReviewSnippets', "label": "positive", "site": "amazon"}
    assert rows[1] == {"text": "bad\u2028stuff", "label": "negative", "site": "amazon"}
    assert [row["site"] for row in rows] == [site for site in ("amazon", "movie", "nyt", "tweets") for _ in "ab"]


def test_sms_spam_drops_repeated_texts(tmp_path: Path) -> None:
    (tmp_path / "sms-spam.csv").write_text(',spam,text\n0,0,"hi, you"\n1,1,win\n2,0,"hi, you"\n')
    rows = [row.values for row in BUILT_IN["sms-spam"].read(tmp_path)]
    assert rows == [{"text": "hi, you", "label": "ham"}, {"text": "win", "label": "spam"}]


def test_trec_keeps_the_coarse_class_and_drops_repeated_questions(tmp_path: Path) -> None:
    lines = "NUM:date When was it ?\nHUM:ind Who was it ?\nNUM:date When was it ?\n"
    (tmp_path / "question_labels.txt").write_text(lines)
    rows = [row.values for row in BUILT_IN["trec"].read(tmp_path)]
    assert rows == [{"text": "When was it ?", "label": "NUM"}, {"text": "Who was it ?", "label": "HUM"}]


def test_a_sources_digest_follows_its_content_and_not_its_path(tmp_path: Path) -> None:
    one = csv_file(tmp_path, "text,label\nhi,ham\n")
    (tmp_path / "copy").mkdir()
    two = csv_file(tmp_path / "copy", "text,label\nhi,ham\n")
    before = source_digest(str(one))
    assert before == source_digest(str(two))
    one.write_text("text,label\nho,ham\n")
    assert source_digest(str(one)) != before
    assert source_digest("somebody/some-data") is None


def test_a_tables_digest_changes_with_every_part() -> None:
    one = table_of("a", "b")
    others = [
        table_of("a", "c"),
        table_of("a", "b", labels=(1, 0)),
        table_of("a", "b", columns={"place": ("x", "y")}),
    ]
    assert len({table_digest(table) for table in (one, *others)}) == 4
