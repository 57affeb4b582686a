"""A site as it is written with the libraries' tutorials: a Flower ClientApp that does everything anew in each call.

Example::

    run_simulation(server_app=..., client_app=app, num_supernodes=4)       # glue.py does

Nothing here is slow on purpose, and nothing is clever: ``AutoModel`` with its default attention in float32, PEFT's LoRA, texts
padded to ``max_length``, Opacus' ``make_private`` with its hooks and ``BatchMemoryManager``. Dropout is off, as in ours, and each
call has a seed of its own: two actors with torch's default seed would draw the same noise.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from opacus import PrivacyEngine
from opacus.optimizers import DPOptimizer
from opacus.utils.batch_memory_manager import BatchMemoryManager
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from transformers import AutoModel, AutoTokenizer

from fedrelease.client.schedule import rate_factor, steps_per_round
from fedrelease.experiment import Experiment, Training
from fedrelease.experiment_document import from_document
from fedrelease.models.bases import read_pooling
from fedrelease.models.classifier import canonical_name, pool

__all__ = ["Settings", "app", "loader_batch", "settings_of"]

SETTINGS = "settings.json"
LOOK_BATCH = 64

app = ClientApp()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a call needs beside the message.

    Attributes:
        folder: of ``<site>.train.jsonl`` and ``<site>.holdout.jsonl``, with a text and the index of its label in each line.
        modules: of the base that get LoRA factors. freeze: the factor that is not trained.
        noise: a site's noise multiplier for the whole plan; none without privacy.
    """

    experiment: Experiment
    folder: Path
    base: Path
    modules: tuple[str, ...]
    freeze: str | None
    sites: tuple[str, ...]
    noise: dict[str, float]


def settings_of(folder: Path) -> Settings:
    """Read them from the folder of the sites' texts."""
    found = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    return Settings(
        experiment=from_document(found["experiment"]),
        folder=folder,
        base=Path(found["base"]),
        modules=tuple(found["modules"]),
        freeze=found["freeze"],
        sites=tuple(found["sites"]),
        noise=found["noise"],
    )


def loader_batch(rows: int, training: Training, *, private: bool) -> int:
    """The batch size for a ``DataLoader``.

    Opacus samples at the rate of one by the number of batches, so with privacy there are as many as ours takes steps.
    """
    return (
        math.ceil(rows / steps_per_round(rows, training, private=True)) if private else min(training.batch_size, rows)
    )


class _Classifier(nn.Module):
    def __init__(self, settings: Settings) -> None:
        super().__init__()
        model = settings.experiment.model
        encoder = AutoModel.from_pretrained(str(settings.base), dtype=torch.float32)
        for module in encoder.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        lora = LoraConfig(
            r=model.adapter.rank,
            lora_alpha=model.adapter.alpha,
            use_rslora=model.adapter.rank_stabilised,
            lora_dropout=0.0,
            target_modules=list(settings.modules),
        )
        self.encoder = get_peft_model(encoder, lora)
        self.head = nn.Linear(encoder.config.hidden_size, len(model.labels))
        self.pooling = read_pooling(settings.base)
        self.scale = model.head_scale

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits: Tensor = self.head(pool(hidden, attention_mask, self.pooling) * self.scale)
        return logits


def _shared(model: nn.Module) -> dict[str, nn.Parameter]:
    """Adapter and head, by the names that releases have."""
    named = {canonical_name(name.replace("base_model.model.", "")): value for name, value in model.named_parameters()}
    return {name: value for name, value in named.items() if "lora_" in name or name.startswith("head.")}


def _load(message: Message, context: Context) -> tuple[Settings, str, _Classifier]:
    """Settings, the site's name, and a model with the arrays of the message in it."""
    torch.set_num_threads(1)
    settings = settings_of(Path(str(message.content.config_records["config"]["folder"])))
    place = int(context.node_config["partition-id"])
    torch.manual_seed(hash((settings.experiment.federation.seed, _round(message), place)))
    model = _Classifier(settings)
    received = message.content.array_records["arrays"].to_torch_state_dict()
    with torch.no_grad():
        for name, parameter in _shared(model).items():
            parameter.copy_(received[name])
    return settings, settings.sites[place], model


def _round(message: Message) -> int:
    return int(str(message.content.config_records["config"]["server-round"]))


def _rows(settings: Settings, file: str) -> TensorDataset:
    """Token ids, mask and labels of a file, padded to ``max_length``."""
    lines = (settings.folder / file).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    tokenizer = AutoTokenizer.from_pretrained(str(settings.base))
    encoded = tokenizer(
        [row["text"] for row in rows],
        padding="max_length",
        truncation=True,
        max_length=settings.experiment.training.max_length,
        return_tensors="pt",
    )
    labels = torch.tensor([row["label"] for row in rows])
    return TensorDataset(encoded["input_ids"], encoded["attention_mask"], labels)


@app.query()
def _ready(message: Message, context: Context) -> Message:
    """An actor that answers has imported everything."""
    return Message(RecordDict(), reply_to=message)


@app.train()
def _train(message: Message, context: Context) -> Message:
    settings, site, model = _load(message, context)
    rows = _rows(settings, f"{site}.train.jsonl")
    seen = _fit(model, rows, settings, site, _round(message))
    state = {name: value.detach() for name, value in _shared(model).items()}
    metrics = MetricRecord({"num-examples": _weight(settings, rows), "seen": seen})
    return Message(RecordDict({"arrays": ArrayRecord(state), "metrics": metrics}), reply_to=message)


def _weight(settings: Settings, rows: TensorDataset) -> int:
    """What FedAvg weights by; our default is one vote for a site."""
    by_examples = settings.experiment.phases[0].strategy.knobs.get("weighting") == "examples"
    return len(rows) if by_examples else 1


def _fit(model: nn.Module, rows: TensorDataset, settings: Settings, site: str, number: int) -> int:
    """Train in place through the passes of one round; how many rows took part, with repetition."""
    training, noise = settings.experiment.training, settings.noise.get(site)
    loader = DataLoader(rows, batch_size=loader_batch(len(rows), training, private=noise is not None), shuffle=True)
    steps = round(training.epochs) * len(loader)
    optimizer = _optimizer(model, settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda done: rate_factor((number - 1) * steps + done, settings.experiment.rounds * steps, training),
    )
    model.train()
    if noise is None:
        return sum(_pass(model, optimizer, schedule, loader, training) for _ in range(round(training.epochs)))
    model, optimizer, loader = PrivacyEngine().make_private(
        module=model,
        optimizer=optimizer,
        data_loader=loader,
        noise_multiplier=noise,
        max_grad_norm=settings.experiment.privacy.clip,
        poisson_sampling=True,
    )
    with BatchMemoryManager(
        data_loader=loader, max_physical_batch_size=training.micro_batch, optimizer=optimizer
    ) as pieces:
        return sum(_pass(model, optimizer, schedule, pieces, training) for _ in range(round(training.epochs)))


def _optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    training = settings.experiment.training
    body: list[nn.Parameter] = []
    head: list[nn.Parameter] = []
    for name, parameter in _shared(model).items():
        if settings.freeze and name.endswith(settings.freeze):
            parameter.requires_grad_(False)
        else:
            (head if name.startswith("head.") else body).append(parameter)
    groups = [{"params": body, "lr": training.lr}, {"params": head, "lr": training.head_lr or training.lr}]
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, weight_decay=training.weight_decay)
    return torch.optim.AdamW(groups, weight_decay=training.weight_decay)


def _pass(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    loader: "DataLoader[tuple[Tensor, ...]]",
    training: Training,
) -> int:
    seen = 0
    for input_ids, attention_mask, labels in loader:
        optimizer.zero_grad()
        torch.autograd.backward(cross_entropy(model(input_ids, attention_mask), labels))
        if training.grad_clip is not None and not isinstance(optimizer, DPOptimizer):
            nn.utils.clip_grad_norm_(model.parameters(), training.grad_clip)
        optimizer.step()
        if not (isinstance(optimizer, DPOptimizer) and optimizer._is_last_step_skipped):
            schedule.step()
        seen += len(labels)
    return seen


@app.evaluate()
@torch.no_grad()
def _evaluate(message: Message, context: Context) -> Message:
    settings, site, model = _load(message, context)
    rows = _rows(settings, f"{site}.holdout.jsonl")
    model.eval()
    correct = sum(
        int((model(input_ids, attention_mask).argmax(1) == labels).sum())
        for input_ids, attention_mask, labels in DataLoader(rows, batch_size=LOOK_BATCH)
    )
    place = settings.sites.index(site)
    metrics = MetricRecord({"num-examples": len(rows), "accuracy": correct / len(rows), "site": place})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
