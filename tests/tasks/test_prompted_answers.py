"""causal-lm with prompts, from rows to what predict says."""

from pathlib import Path

import pytest
import torch
from released import make_released_of
from tiny import language_experiment, make_chat_base, make_pairs

from fedrelease.client.selftest import check_gradients
from fedrelease.data.cells import Cells
from fedrelease.data.prompts import tokenise_prompted
from fedrelease.data.rows import RawRow
from fedrelease.data.tokens import IGNORED, TokenRows, load_tokenizer, save_rows
from fedrelease.experiment import Adapter, Data, Model
from fedrelease.models.bases import open_base
from fedrelease.models.continuing import continued
from fedrelease.models.evaluation import judge, tally
from fedrelease.models.tasks import build_model, task_of
from fedrelease.server.exports import Wanted, export
from fedrelease.server.predict import predict
from fedrelease.tasks.causal_lm import CAUSAL_LM

PAIRS = [("the film was", "very good"), ("a book", "bad"), ("it was", "quite the end")]
LABELS = ("wrong", "right")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat_base(tmp_path_factory.mktemp("chat"))


@pytest.fixture
def rows(tmp_path: Path, base: Path) -> TokenRows:
    path = tmp_path / "rows.safetensors"
    save_rows(path, tokenise_prompted(PAIRS, 1, load_tokenizer(base), 32, chat=False))
    return TokenRows(path)


def built(base: Path) -> torch.nn.Module:
    adapter = Adapter(rank=2, layers="last:1")
    return build_model(open_base(str(base), cache=base), Model(task="causal-lm", adapter=adapter), seed=3)


def test_a_chat_of_the_same_prompt_and_text_is_the_same_row_with_the_same_fingerprint() -> None:
    cells = Cells(row=RawRow(line=2, values={"q": "the film was", "a": "good"}), labels=LABELS)
    one, other = (CAUSAL_LM.read(cells, Data(text="a", prompt="q", chat=chat)) for chat in (False, True))
    assert (one.text, one.content) == (other.text, other.content) == ("the film was\ngood", ["the film was", "good"])
    assert (one.chat, other.chat) == (False, True)


def test_a_loss_is_the_mean_over_the_answer_whatever_the_prompt_cost(base: Path, rows: TokenRows) -> None:
    model, batch = build_model(open_base(str(base), cache=base), Model(task="causal-lm"), seed=3), rows.batch([0])
    assert batch.targets is not None
    with torch.no_grad():
        told = model(*batch.inputs)
    wanted = told[0, :, 0][batch.targets[0] != IGNORED]
    assert len(wanted) == 3  # two words and the end
    assert float(CAUSAL_LM.losses(told, batch)) == pytest.approx(float(wanted.mean()))


def test_gradients_by_example_are_those_of_one_row_at_a_time(base: Path, rows: TokenRows) -> None:
    check_gradients(built(base), rows)


def test_an_answer_is_whole_where_the_model_would_have_written_it(base: Path, tmp_path: Path) -> None:
    model, tokenizer = (
        build_model(open_base(str(base), cache=base), Model(task="causal-lm"), seed=3),
        load_tokenizer(base),
    )
    said = continued(model, [14, 15, 16], tokens=2, end=None)  # type: ignore[arg-type]
    pairs, path = [("film book was", "good"), ("a", "bad")], tmp_path / "own.safetensors"
    tensors = tokenise_prompted(pairs, 1, tokenizer, 32, chat=False)
    tensors["input_ids"][:5] = torch.tensor([14, 15, 16, *said])
    tensors["targets"][2:4] = torch.tensor(said)
    save_rows(path, tensors)
    judged = judge(model, TokenRows(path), LABELS)
    told = tally(judged, classes=2)
    assert judged.sums[:, 1:].tolist() == [
        [1, 1, 1],
        [1, 0, 0],
    ]  # a prompt of one token leaves none without a target
    assert task_of(model).metrics(told.matrix, told.sums)["whole_answers"] == 0.5


@pytest.mark.parametrize("turns", ["false", "true"])
def test_a_release_answers_as_the_exported_model_does_in_the_same_template(
    base: Path, tmp_path: Path, turns: str
) -> None:
    data = make_pairs(tmp_path / "rows.csv", sites=("a", "b"), rows=8)
    text = language_experiment(base, data).replace(
        "[data]\n", f'[data]\nprompt = "text"\ntext = "target"\nchat = {turns}\n'
    )
    store = make_released_of(tmp_path, text)
    (found,) = predict(store.find("stable"), ["the film"], cache=tmp_path, tokens=5)
    wanted = Wanted(format="hf", merged=True, out=tmp_path / "out")
    folder = export(store, store.find("stable"), wanted, cache=tmp_path).folder
    page = (folder / "README.md").read_text(encoding="utf-8")
    code = page.partition("```python\n")[2].partition("```")[0].replace('"."', repr(str(folder)))
    code = code.replace("Who wrote Emma?", "the film").replace("max_new_tokens=40", "max_new_tokens=5")
    scope: dict[str, object] = {}
    exec(code, scope)  # the card's own lines
    assert str(scope["text"]).endswith(str(found.document()["continuation"]))
    assert ("apply_chat_template" in page) is (turns == "true")
