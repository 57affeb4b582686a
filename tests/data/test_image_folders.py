"""A user's own images: folders by label and site, one size for all, and messages that name the file."""

from pathlib import Path

import pytest
from PIL import Image

from fedrelease.data import image_folders
from fedrelease.data.image_folders import is_image_folder, read_image_folder
from fedrelease.data.sources import Table, load_table
from fedrelease.errors import DataError
from fedrelease.experiment import Data, Partition

LABELS = ("cat", "dog")


def image(path: Path, colour: tuple[int, int, int] = (255, 0, 0), size: tuple[int, int] = (8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def load(folder: Path, *, by: str = "iid", pixels: str = "3x4x4") -> Table:
    data = Data(source=str(folder), pixels=pixels, partition=Partition(by=by, sites=2))
    return load_table(data, LABELS, cache=folder, task="image-classification")


def test_folders_are_labels(tmp_path: Path) -> None:
    image(tmp_path / "dog" / "b.png"), image(tmp_path / "cat" / "a.jpg"), image(tmp_path / "cat" / "c.gif")
    table = load(tmp_path)
    assert sorted(table.labels) == [0, 0, 1]
    assert table.features is not None
    assert table.features.shape == (3, 48)


def test_folders_around_labels_are_sites(tmp_path: Path) -> None:
    for site, label in (("north", "cat"), ("south", "cat"), ("south", "dog")):
        image(tmp_path / site / label / "one.png", (len(site), 0, len(label)))
    table = load(tmp_path, by="column")
    assert dict(zip(table.columns["site"], table.labels, strict=True)) == {"north": 0, "south": 1}


def test_pixels_lie_channel_by_channel_between_0_and_1(tmp_path: Path) -> None:
    image(tmp_path / "cat" / "red.png", (255, 0, 51))
    (features, _), _ = read_image_folder(tmp_path, LABELS, "3x2x2")
    assert features[0].tolist() == pytest.approx([1.0] * 4 + [0.0] * 4 + [0.2] * 4)


def test_grey_is_made_of_colours(tmp_path: Path) -> None:
    """ITU-R 601: 0.299 of red."""
    image(tmp_path / "cat" / "red.png", (255, 0, 0))
    (features, _), _ = read_image_folder(tmp_path, LABELS, "1x2x2")
    assert features[0].tolist() == pytest.approx([76 / 255] * 4)


def test_equal_images_are_told_to_be_equal_and_others_are_not(tmp_path: Path) -> None:
    for name, colour in (("a", (9, 9, 9)), ("b", (9, 9, 9)), ("c", (9, 9, 8))):
        image(tmp_path / "cat" / f"{name}.png", colour)
    texts = load(tmp_path).texts
    assert texts[0] == texts[1] != texts[2]


def test_hidden_files_and_notes_beside_images_are_left_out(tmp_path: Path) -> None:
    image(tmp_path / "cat" / "a.png")
    image(tmp_path / "cat" / ".hidden.png")
    (tmp_path / "cat" / "notes.txt").write_text("mine")
    assert len(load(tmp_path).examples) == 1


def test_a_folder_without_images_is_none(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    assert not is_image_folder(tmp_path)


def broken(folder: Path) -> None:
    (image(folder / "cat" / "a.png")).write_bytes(b"\x89PNG\r\n\x1a\n rubbish")


def cut_short(folder: Path) -> None:
    path = image(folder / "cat" / "a.png", size=(64, 64))
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (broken, r"a\.png is no image that can be read.*mend or remove"),
        (cut_short, r"a\.png is no image that can be read.*mend or remove"),
        (
            lambda folder: image(folder / "bird" / "a.png"),
            r"a\.png has a label that the experiment lacks.*bird.*cat, dog",
        ),
        (lambda folder: image(folder / "a.png"), r"a\.png lies where no label is.*LABEL"),
        (
            lambda folder: (image(folder / "cat" / "a.png"), image(folder / "north" / "cat" / "b.png")),
            r"a\.png lies where no label is.*SITE",
        ),
    ],
)
def test_what_cannot_be_used_is_named_with_a_way_out(make: object, said: str, tmp_path: Path) -> None:
    make(tmp_path)  # type: ignore[operator]
    with pytest.raises(DataError, match=said):
        load(tmp_path)


def test_too_many_pixels_are_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path / "cat" / "a.png")
    monkeypatch.setattr(image_folders, "MOST_BYTES", 191)  # one image of 3 x 4 x 4 takes 192
    with pytest.raises(DataError, match="holds too many images.*smaller size"):
        load(tmp_path)
