"""What cannot be merged as an ONNX graph: any number of rows and tokens, and the logits of the model with its adapter."""

from pathlib import Path

import pytest
import torch

from fedrelease.experiment import Adapter, Data, Model
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import build_classifier, load_state, trainable_state
from fedrelease.server.exports.onnx_file import open_session, run, write_onnx
from fedrelease.server.exports.plain import BESIDE, Plain, _beside, _plain_text


@pytest.mark.parametrize("kind", BESIDE)
def test_the_graph_gives_the_models_logits_whatever_the_number_of_rows_and_tokens(
    kind: str, tiny_base: Path, tmp_path: Path
) -> None:
    base, own = open_base(str(tiny_base), cache=tmp_path), Model(adapter=Adapter(kind=kind, rank=2, tokens=3))
    model, numbers = build_classifier(base, own, seed=3).eval(), torch.Generator().manual_seed(5)
    state = {n: t + 0.3 * torch.randn(t.shape, generator=numbers) for n, t in trainable_state(model).items()}
    load_state(model, state)
    plain = Plain(
        module=_plain_text(_beside(base, own, state), Data()).eval(),  # type: ignore[arg-type]  # of a text
        inputs=("input_ids", "attention_mask"),
        base=base,
        task=own.task,
        labels=own.labels,
        max_length=61,
    )
    write_onnx(plain, tmp_path / "model.onnx")
    session = open_session(tmp_path / "model.onnx")
    for rows, tokens in ((1, 1), (3, 9), (2, 61)):
        ids = torch.randint(4, 24, (rows, tokens), generator=numbers)
        mask = (torch.arange(tokens) < torch.randint(1, tokens + 1, (rows, 1), generator=numbers)).long()
        with torch.no_grad():
            torch.testing.assert_close(run(session, ids, mask), model(ids, mask), atol=1e-5, rtol=1e-4)
