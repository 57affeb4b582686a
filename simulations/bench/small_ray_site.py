"""A tiny client as Flower's tutorials write it: model, rows and optimizer are made in each call; only the table is kept.

Example::

    run_simulation(server_app=..., client_app=app, num_supernodes=1000)       # small_ray.py does

The task comes with the message. A client is a node's partition. Batches are not shuffled, as on the other sides.
"""

from functools import cache

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from fedrelease.simulations.bench.small_task import (
    MOMENTUM,
    Table,
    Task,
    new_model,
    read_table,
    rows_of,
    task_from,
)

__all__ = ["app"]

app = ClientApp()
_table = cache(read_table)


@app.train()
def _train(message: Message, context: Context) -> Message:
    torch.set_num_threads(1)
    task = task_from(message.content.config_records["config"])
    model = new_model(task)
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    rows = _rows(task, _table(task), int(context.node_config["partition-id"]))
    _fit(model, DataLoader(rows, batch_size=task.batch), task)
    metrics = MetricRecord({"num-examples": len(rows)})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)


def _rows(task: Task, table: Table, client: int) -> TensorDataset:
    places = rows_of(task, client, len(table.labels))
    return TensorDataset(table.features[places], table.labels[places])


def _fit(model: nn.Module, loader: "DataLoader[tuple[torch.Tensor, ...]]", task: Task) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=task.lr, momentum=MOMENTUM)
    model.train()
    for features, labels in loader:
        optimizer.zero_grad()
        torch.autograd.backward(cross_entropy(model(features), labels))
        optimizer.step()
