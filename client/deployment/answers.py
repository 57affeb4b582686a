"""The last answers that a site gave, kept until others take their place: a question that comes again costs no privacy again.

Example::

    answers = Answers(site.home / "answers")
    answers.find(question) or answers.keep(question, app(message, context).content)

A server that lost its run, or an answer, asks the same question anew. With noise from the system's generator a second training
would be charged a second time, and rightly so: nothing is refunded. The same bytes once more tell nobody anything new.
"""

import json
from pathlib import Path
from typing import final

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from safetensors import SafetensorError
from safetensors.torch import load, save

from fedrelease.files import canonical_bytes, digest_bytes, write_durably

__all__ = ["Answers", "question_of"]

KEPT = 4
_RECORDS = "records"


def question_of(message: Message) -> str:
    """The sha256 of all that an answer depends on and the server chose: what is asked, and the state that it is asked of."""
    config = message.content.config_records.get("config", ConfigRecord())
    arrays = {
        f"{kind}/{name}": digest_bytes(array.data)
        for kind, record in message.content.array_records.items()
        for name, array in record.items()
    }
    return digest_bytes(canonical_bytes([message.metadata.message_type, str(config.get("request")), arrays]))


@final
class Answers:
    """A folder with the newest few answers; one writer."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is made with the first answer."""
        self._folder = folder

    def find(self, question: str) -> RecordDict | None:
        """The answer to a question that was answered lately; one that cannot be read is none."""
        path = self._folder / f"{question}.safetensors"
        try:
            return _content(path.read_bytes())
        except (OSError, ValueError, KeyError, SafetensorError):
            return None

    def keep(self, question: str, content: RecordDict) -> RecordDict:
        """Write an answer down before it is sent; the oldest ones go."""
        write_durably(self._folder / f"{question}.safetensors", _bytes(content), mode=0o600)
        files = sorted(self._folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
        for path in files[:-KEPT]:
            path.unlink(missing_ok=True)
        return content


def _bytes(content: RecordDict) -> bytes:
    """Arrays as tensors, all else as JSON beside them."""
    facts = {
        "arrays": {kind: list(record) for kind, record in content.array_records.items()},
        "metrics": {kind: dict(record) for kind, record in content.metric_records.items()},
        "config": {kind: dict(record) for kind, record in content.config_records.items()},
    }
    tensors = {
        f"{kind}/{name}": tensor.contiguous()
        for kind, record in content.array_records.items()
        for name, tensor in record.to_torch_state_dict().items()
    }
    return save(tensors, metadata={_RECORDS: json.dumps(facts)})


def _content(data: bytes) -> RecordDict:
    tensors = load(data)
    length = int.from_bytes(data[:8], "little")
    facts = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_RECORDS])
    return RecordDict(
        {
            **{
                kind: ArrayRecord({name: tensors[f"{kind}/{name}"] for name in names})
                for kind, names in facts["arrays"].items()
            },
            **{kind: MetricRecord(values) for kind, values in facts["metrics"].items()},
            **{kind: ConfigRecord(values) for kind, values in facts["config"].items()},
        }
    )
