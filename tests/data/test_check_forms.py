"""``data check`` knows words with a tag each and folders of images by their form, without an experiment."""

import json
from pathlib import Path

import pytest
from PIL import Image

from fedrelease.data.check.checking import Checked, Wishes, check
from fedrelease.experiment_file import load_experiment

SENTENCE = "{name} NNP B-NP B-PER\nlives VBZ B-VP O\nin IN B-PP O\n{place} NNP B-NP B-LOC\n\n"


def looked_at(path: Path, **wishes: object) -> Checked:
    return check(str(path), Wishes(**wishes), cache=path.parent / "cache")  # type: ignore[arg-type]


def pasted(found: Checked, folder: Path) -> Checked:
    """What the lines to paste make of the same source."""
    (folder / "pasted.toml").write_text(found.toml, encoding="utf-8")
    return check(found.source, Wishes(experiment=load_experiment(folder / "pasted.toml")), cache=folder / "cache")


def conll(folder: Path) -> Path:
    path = folder / "eng.train.conll"
    sentences = [SENTENCE.format(name=f"Ada{n}", place=f"Ville{n}") for n in range(40)]
    path.write_text("-DOCSTART- -X- -X- O\n\n" + "".join(sentences), encoding="utf-8")
    return path


def painted(folder: Path, names: tuple[str, ...], *, size: tuple[int, int] = (8, 6), mode: str = "L") -> Path:
    for place, name in enumerate(names):
        (folder / "photos" / name).mkdir(parents=True)
        for n in range(12):
            Image.new(mode, size, n * 7 + place).save(folder / "photos" / name / f"{n}.png")
    return folder / "photos"


def test_a_conll_file_has_tags_and_the_lines_to_paste_take_it(tmp_path: Path) -> None:
    found = looked_at(conll(tmp_path))
    assert found.ok and dict(found.tags) == {"O": 80, "B-LOC": 40, "B-PER": 40}
    assert list(found.tags) == ["O", "B-LOC", "B-PER"] and len(found.texts.items) == 40
    assert not [finding for finding in found.findings if "first line" in finding.what or "list" in finding.what]
    again = pasted(found, tmp_path)
    assert again.ok and again.dealt is not None and len(again.dealt.sites) == 4
    assert load_experiment(tmp_path / "pasted.toml").model.task == "token-classification"


def test_another_column_of_a_conll_file_is_named_by_its_number(tmp_path: Path) -> None:
    assert list(looked_at(conll(tmp_path), label="2").tags) == ["IN", "NNP", "VBZ"]


def test_lists_are_known_by_the_names_that_data_sets_give_them(tmp_path: Path) -> None:
    rows = [{"id": n, "tokens": [f"Ada{n}", "wrote"], "ner_tags": ["B-PER", "O"]} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = looked_at(tmp_path / "rows.jsonl")
    assert (found.roles.text.column, found.roles.label.column) == ("tokens", "ner_tags")
    assert pasted(found, tmp_path).ok


def test_tags_that_look_like_words_are_told_and_not_shown(tmp_path: Path) -> None:
    from fedrelease.cli.data_page import check_document

    found = looked_at(conll(tmp_path), label="1")
    document = json.dumps(check_document(found, show=False))
    assert "Ada" not in document and '"tags": null' in document and found.toml == ""
    assert [finding for finding in found.findings if "look like no tags" in finding.what]


@pytest.mark.parametrize(
    ("size", "mode", "pixels"), [((8, 6), "L", "1x6x8"), ((8, 6), "RGB", "3x6x8"), ((90, 70), "RGB", "3x64x64")]
)
def test_a_folder_of_images_is_one_without_an_experiment(
    tmp_path: Path, size: tuple[int, int], mode: str, pixels: str
) -> None:
    found = looked_at(painted(tmp_path, ("cat", "dog"), size=size, mode=mode))
    assert (found.ok, found.rows.pixels, dict(found.texts.labels)) == (True, pixels, {"cat": 12, "dog": 12})
    assert found.words is None and not found.tags
    again = pasted(found, tmp_path)
    assert again.ok and again.dealt is not None
    experiment = load_experiment(tmp_path / "pasted.toml")
    assert (experiment.model.base, experiment.model.adapter.kind) == (f"cnn:{pixels}-16-32-32", "full")


def test_folders_around_labels_are_sites(tmp_path: Path) -> None:
    found = looked_at(painted(tmp_path, ("north/cat", "north/dog", "south/cat", "south/dog")))
    assert found.roles.site == "site" and pasted(found, tmp_path).dealt is not None
    assert load_experiment(tmp_path / "pasted.toml").data.partition.column == "site"


def test_images_of_one_label_are_an_error_with_a_way_out(tmp_path: Path) -> None:
    found = looked_at(painted(tmp_path, ("cat",)))
    assert not found.ok and found.toml == ""
