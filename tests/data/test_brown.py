"""The Brown corpus, read from its archive, which is never unpacked."""

import io
import tarfile
from pathlib import Path

from fedrelease.data.brown import ARCHIVE
from fedrelease.data.builtin import BUILT_IN

TEXTS = {
    "cats.txt": "ca01 news\ncr01 humor\n",
    "ca01": "\n\n\tThe/at Grand/jj-tl Jury/nn-tl didn't/dod* say/vb and/or/cc ./.-hl\n\n",
    "cr01": "\tI'd/PPSS+MD not/* --/-- his/pp$ ''/'' de/fw-in Rome's/np$ two/cd x/nil\n",
}


def archive(folder: Path) -> Path:
    with tarfile.open(folder / ARCHIVE, "w:gz") as made:
        for name, text in TEXTS.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(text.encode())
            made.addfile(member, io.BytesIO(text.encode()))
    return folder


def test_sentences_have_their_genre_and_universal_parts_of_speech(tmp_path: Path) -> None:
    rows = list(BUILT_IN["brown-pos"].read(archive(tmp_path)))
    assert [(row.line, row.values["genre"]) for row in rows] == [(1, "news"), (2, "humor")]
    assert rows[0].values["text"] == ["The", "Grand", "Jury", "didn't", "say", "and/or", "."]
    assert rows[0].values["label"] == ["DET", "ADJ", "NOUN", "VERB", "VERB", "CONJ", "."]
    assert rows[1].values["label"] == ["PRON", "ADV", ".", "DET", ".", "X", "NOUN", "NUM", "X"]
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE]
