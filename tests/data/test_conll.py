"""CoNLL files: words and tags line by line, and lists of words in other files."""

import json
from pathlib import Path

import pytest

from fedrelease.data.builtin import BUILT_IN
from fedrelease.data.sites import open_site, prepare_sites
from fedrelease.data.sources import Table, load_table
from fedrelease.errors import DataError
from fedrelease.experiment import Data, Experiment, Model, Partition, Training
from fedrelease.models.bases import open_base

LABELS = ("O", "B-PER", "I-PER", "B-LOC")
CONLL = """-DOCSTART- -X- O O

Ada NNP I-NP B-PER
Lovelace NNP I-NP I-PER
wrote VBD I-VP O

-DOCSTART- -X- O O

London NNP I-NP B-LOC
"""


def load(source: Path, *, labels: tuple[str, ...] = LABELS, **columns: str) -> Table:
    data = Data(source=str(source), partition=Partition(by="iid", sites=1), **columns)
    return load_table(data, labels, cache=source.parent, task="token-classification")


def written(folder: Path, text: str | bytes, name: str = "rows.conll") -> Path:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def refused(source: Path, match: str) -> DataError:
    with pytest.raises(DataError, match=match) as caught:
        load(source)
    return caught.value


@pytest.mark.parametrize("name", ["rows.conll", "rows.BIO", "rows.iob"])
@pytest.mark.parametrize(
    "text", [CONLL, CONLL.replace(" ", "\t"), CONLL.replace("\n", "\r\n"), "\ufeff" + CONLL.strip()]
)
def test_a_file_with_four_columns_needs_nothing_but_its_name(tmp_path: Path, name: str, text: str) -> None:
    table = load(written(tmp_path, text, name))
    assert [example.content for example in table.examples] == [
        [["Ada", "Lovelace", "wrote"], ["B-PER", "I-PER", "O"]],
        [["London"], ["B-LOC"]],
    ]
    assert table.texts == ("Ada Lovelace wrote", "London")


def test_another_column_is_named_by_its_number(tmp_path: Path) -> None:
    table = load(written(tmp_path, CONLL), labels=("NNP", "VBD"), label="2")
    assert table.examples[0].content == [["Ada", "Lovelace", "wrote"], ["NNP", "NNP", "VBD"]]


def test_a_word_with_a_space_that_is_none_of_ours_stays_one_word(tmp_path: Path) -> None:
    table = load(written(tmp_path, "New\u00a0York\tB-LOC\nAda Lovelace\tB-PER\n#\tO\n"))
    assert table.examples[0].content == [["New\u00a0York", "Ada Lovelace", "#"], ["B-LOC", "B-PER", "O"]]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("Ada B-PER\n\nLondon B-LOC\nis\n", "rows.conll line 4 cannot be used: it has the one cell 'is'"),
        (
            "Ada B-PER\nin O\nLondon B-CITY\n",
            "rows.conll line 3 cannot be used: 'label' is 'B-CITY', which is not one of O",
        ),
        ("Ada NNP B-PER\nLondon B-LOC\n", "line 2 cannot be used: it has 2 cells, and the file's first line has 3"),
        ("Ada\tB-PER\n\tO\n", "line 2 cannot be used: it has the one cell 'O'"),
        ("Ada\tNNP\tO\nis\t\tO\n", "line 2 cannot be used: one of its cells is empty"),
        (b"Ada B-PER\n\xff O\n", "rows.conll line 2 is not UTF-8"),
        ("", "rows.conll holds no rows"),
        ("\n \t\n-DOCSTART- -X- O O\n\n", "rows.conll holds no rows"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, text: str | bytes, match: str) -> None:
    assert "traceback" not in str(refused(written(tmp_path, text), match)).lower()


def test_a_column_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="its columns are: text, label, 1, 2, 3, 4"):
        load(written(tmp_path, CONLL), label="ner")


ROWS = [
    {"tokens": ["Ada", "wrote"], "ner": ["B-PER", "O"]},
    {"tokens": ["London"], "ner": ["B-LOC"]},
]
READ = [[["Ada", "wrote"], ["B-PER", "O"]], [["London"], ["B-LOC"]]]


def test_lists_of_words_and_tags_are_read_from_json_lines_and_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    lines = written(tmp_path, "\n".join(map(json.dumps, ROWS)), "rows.jsonl")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    for source in (lines, tmp_path / "rows.parquet"):
        assert [one.content for one in load(source, text="tokens", label="ner").examples] == READ


def test_numbers_of_a_datasets_folder_mean_its_own_class_names(tmp_path: Path) -> None:
    """Its classes are in another order than the experiment's labels."""
    import datasets

    names = sorted(LABELS)
    features = datasets.Features(
        {"tokens": datasets.List(datasets.Value("string")), "ner": datasets.List(datasets.ClassLabel(names=names))}
    )
    rows = [{**row, "ner": [names.index(tag) for tag in row["ner"]]} for row in ROWS]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "folder")
    assert [one.content for one in load(tmp_path / "folder", text="tokens", label="ner").examples] == READ


def test_lists_of_unlike_length_and_unknown_tags_are_told_with_their_word(tmp_path: Path) -> None:
    refused(
        written(tmp_path, '{"text": ["Ada", "wrote"], "label": ["O"]}', "a.jsonl"), "2 words and 'label' has 1 labels"
    )
    refused(written(tmp_path, '{"text": ["Ada"], "label": ["B-ORG"]}', "b.jsonl"), "of word 1 'label' is 'B-ORG'")


def test_a_sites_fingerprint_and_split_do_not_change_with_the_order_of_labels(tmp_path: Path, tiny_base: Path) -> None:
    """Rows cost privacy once, whatever order a federation has its labels in."""
    source = written(tmp_path, "\n\n".join(f"Ada{n} B-PER\nin O\nLondon{n} B-LOC" for n in range(12)))

    def facts(labels: tuple[str, ...]) -> tuple[str, str]:
        experiment = Experiment(
            model=Model(base=str(tiny_base), task="token-classification", labels=labels),
            data=Data(source=str(source), partition=Partition(by="iid", sites=1)),
            training=Training(max_length=32),
        )
        digest = open_base(str(tiny_base), cache=tiny_base).tokenizer_digest
        prepared = prepare_sites(experiment, base_folder=tiny_base, tokenizer_digest=digest, cache=tmp_path / "cache")
        site = open_site(prepared.folder / prepared.sites[0])
        return site.fingerprint, site.split

    assert facts(LABELS) == facts(LABELS[::-1])


def test_a_phase_with_fewer_labels_has_the_rows_that_show_no_other(tmp_path: Path, tiny_base: Path) -> None:
    source = written(
        tmp_path, "\n\n".join(f"Ada{n} B-PER\nin O\nLondon{n} {'B-LOC' if n % 2 else 'O'}" for n in range(12))
    )
    experiment = Experiment(
        model=Model(base=str(tiny_base), task="token-classification", labels=LABELS),
        data=Data(source=str(source), partition=Partition(by="iid", sites=1)),
        training=Training(max_length=32),
    )
    digest = open_base(str(tiny_base), cache=tiny_base).tokenizer_digest
    prepared = prepare_sites(experiment, base_folder=tiny_base, tokenizer_digest=digest, cache=tmp_path / "cache")
    few = open_site(prepared.folder / prepared.sites[0]).with_labels(3)
    assert 0 < len(few.train) + len(few.holdout) == 6
    assert int(few.train.batch(range(len(few.train))).targets.max()) < 3  # type: ignore[union-attr]


def test_wnuts_tweets_are_read_word_by_word(tmp_path: Path) -> None:
    """The file ends its tweets with a tab alone on a line."""
    written(tmp_path, "Empire\tB-facility\nState\tI-facility\n\t\nPretty\tO\n\t\n", "ner.txt")
    rows = list(BUILT_IN["wnut"].read(tmp_path))
    assert [(row.line, row.values["text"], row.values["label"]) for row in rows] == [
        (1, ["Empire", "State"], ["B-facility", "I-facility"]),
        (4, ["Pretty"], ["O"]),
    ]
    assert len(BUILT_IN["wnut"].labels) == 21
