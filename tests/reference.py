"""Slow, obvious twins of what the package does fast: one example at a time, one number at a time, nothing shared with it."""

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrelease.data.row_files import Rows
from fedrelease.data.tokens import TokenRows
from fedrelease.models.per_example import plain_layers
from fedrelease.models.tasks import task_of
from fedrelease.update import State


def one_gradient(model: nn.Module, parameters: Sequence[nn.Parameter], rows: TokenRows, row: int) -> list[Tensor]:
    """The gradient of one example's loss, by plain autograd and plain layers; an example that is alone is never padded."""
    batch = rows.batch([row])
    with plain_layers(model):
        logits = model(batch.input_ids, batch.attention_mask)
        truth = batch.labels if batch.targets is None else batch.targets[0]  # of words, whose mean a row's loss is
        loss = functional.cross_entropy(logits if batch.targets is None else logits[0], truth)
    return [gradient.detach().clone() for gradient in torch.autograd.grad(loss, list(parameters))]


def slow_gradient(model: nn.Module, parameters: Sequence[nn.Parameter], rows: Rows, row: int) -> list[Tensor]:
    """The gradient of one example of any task: alone, through plain layers, by plain autograd; zeros where it has none."""
    batch = rows.batch([row])
    with plain_layers(model):
        loss = SLOW_LOSSES.get(task_of(model).name, _own_loss)(model, batch)
    gradients = torch.autograd.grad(loss, list(parameters))
    return [gradient.detach().clone() for gradient in gradients]


def _label_loss(model: nn.Module, batch: Any) -> Tensor:
    """Minus the logarithm of the share that the softmax gives to the label."""
    (logits,) = model(*batch.inputs)
    return -(logits[batch.labels[0]] - logits.logsumexp(0))


def _tag_loss(model: nn.Module, batch: Any) -> Tensor:
    """The same of each word, and then their mean."""
    (logits,), (tags,) = model(*batch.inputs), batch.targets
    nats = [-(one[tag] - one.logsumexp(0)) for one, tag in zip(logits, tags, strict=True) if tag >= 0]
    return torch.stack(nats).mean()


def _next_token_loss(model: Any, batch: Any) -> Tensor:
    """Of each token but the last that of the one after it, from the whole vocabulary's logits; and then their mean."""
    (ids,), (vectors,) = batch.input_ids, model.hidden(batch.input_ids, batch.attention_mask)
    logits = vectors.float() @ model.head.weight.T
    nats = [-(logits[place][ids[place + 1]] - logits[place].logsumexp(0)) for place in range(len(ids) - 1)]
    return torch.stack(nats).mean()


def _number_loss(model: nn.Module, batch: Any) -> Tensor:
    """The square of what is said minus what is true."""
    ((said,),), true = model(*batch.inputs), batch.values[0][0]
    return (said - true) * (said - true)


def _many_loss(model: nn.Module, batch: Any) -> Tensor:
    """Of each label minus the logarithm of the share that a sigmoid gives to whether it applies; and then their mean."""
    (logits,), (there,) = model(*batch.inputs), batch.values
    shares = [torch.sigmoid(one if applies else -one) for one, applies in zip(logits, there, strict=True)]
    return -torch.stack([share.log() for share in shares]).mean()


def _hidden_token_loss(model: Any, batch: Any) -> Tensor:
    """The nats of each hidden token, from the whole vocabulary's logits; and then their mean."""
    (targets,), (vectors,) = batch.targets, model.turned(model.hidden(batch.input_ids, batch.attention_mask).float())
    logits = functional.linear(vectors, model.head.weight, model.head.bias)
    nats = [logits[place].logsumexp(0) - logits[place][one] for place, one in enumerate(targets) if one >= 0]
    return torch.stack(nats).mean()


def _written_token_loss(model: Any, batch: Any) -> Tensor:
    """The nats of each token of the target, with the source alone and the target alone; and then their mean."""
    (ids,), (targets,) = batch.input_ids, batch.targets
    source, wanted = ids[targets < 0][None], targets[targets >= 0]
    before = torch.cat([torch.tensor([model.start]), wanted[:-1]])[None]
    read = model.encoder.get_encoder()(input_ids=source).last_hidden_state
    out = model.encoder.get_decoder()(input_ids=before, encoder_hidden_states=read, use_cache=False)
    logits = functional.linear(model.vectors(out.last_hidden_state)[0], model.head.weight, model.head.bias)
    return torch.stack([logits[place].logsumexp(0) - logits[place][one] for place, one in enumerate(wanted)]).mean()


def _own_loss(model: nn.Module, batch: Any) -> Tensor:
    """What a task says itself, where nobody has written it down a second time: only the way to the gradient is slow then."""
    return task_of(model).losses(model(*batch.inputs), batch)[0]


SLOW_LOSSES: Mapping[str, Callable[[Any, Any], Tensor]] = {
    "causal-lm": _next_token_loss,
    "image-classification": _label_loss,
    "masked-lm": _hidden_token_loss,
    "multi-label-classification": _many_loss,
    "pair-classification": _label_loss,
    "regression": _number_loss,
    "seq2seq": _written_token_loss,
    "text-classification": _label_loss,
    "token-classification": _tag_loss,
}


def norm_of(parts: Sequence[Tensor]) -> float:
    """The L2 norm of all parts together."""
    return math.sqrt(sum(float(number) ** 2 for part in parts for number in part.flatten()))


def clipped_sum(
    model: nn.Module, parameters: Sequence[nn.Parameter], rows: TokenRows, batch: Sequence[int], clip: float
) -> list[Tensor]:
    """Each example's gradient, shortened to ``clip``, added up; zeros for nobody."""
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for row in batch:
        gradient = one_gradient(model, parameters, rows, row)
        factor = min(1.0, clip / max(norm_of(gradient), 1e-12))
        total = [before + factor * part for before, part in zip(total, gradient, strict=True)]
    return total


@dataclass
class AdamW:
    """Loshchilov and Hutter (2019), algorithm 2, with torch's defaults."""

    lr: float
    weight_decay: float = 0.0
    step_count: int = 0
    first: list[Tensor] = field(default_factory=list)
    second: list[Tensor] = field(default_factory=list)

    def step(self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> None:
        self.step_count += 1
        self.first = self.first or [torch.zeros_like(g) for g in gradients]
        self.second = self.second or [torch.zeros_like(g) for g in gradients]
        for place, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
            self.first[place] = 0.9 * self.first[place] + 0.1 * gradient
            self.second[place] = 0.999 * self.second[place] + 0.001 * gradient**2
            mean = self.first[place] / (1 - 0.9**self.step_count)
            square = self.second[place] / (1 - 0.999**self.step_count)
            with torch.no_grad():
                parameter.mul_(1 - self.lr * self.weight_decay)
                parameter.sub_(self.lr * mean / (square.sqrt() + 1e-8))


@dataclass
class Sgd:
    """Gradient descent with momentum 0.9."""

    lr: float
    velocity: list[Tensor] = field(default_factory=list)

    def step(self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> None:
        self.velocity = self.velocity or [torch.zeros_like(g) for g in gradients]
        for place, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
            self.velocity[place] = 0.9 * self.velocity[place] + gradient
            with torch.no_grad():
                parameter.sub_(self.lr * self.velocity[place])


def private_steps(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    rows: TokenRows,
    *,
    batches: Sequence[Sequence[int]],
    noises: Sequence[Sequence[Tensor]],
    clip: float,
    expected_batch: float,
    optimizer: AdamW | Sgd,
    pull: float = 0.0,
) -> None:
    """DP-SGD as Abadi et al. (2016) write it down, in place: clip each, add up, add noise, divide, step.

    ``pull``: of FedProx, Li et al. (2020), equation 2, towards where this began; it holds no row, so it comes after the noise.
    """
    began = [parameter.detach().clone() for parameter in parameters]
    for batch, noise in zip(batches, noises, strict=True):
        total = clipped_sum(model, parameters, rows, batch, clip)
        noisy = [(part + drawn) / expected_batch for part, drawn in zip(total, noise, strict=True)]
        optimizer.step(parameters, pulled(noisy, parameters, began, pull))


def plain_steps(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    rows: TokenRows,
    *,
    batches: Sequence[Sequence[int]],
    optimizer: AdamW | Sgd,
    pull: float = 0.0,
) -> None:
    """Gradient descent on the mean loss of each batch, in place, with FedProx's term."""
    began = [parameter.detach().clone() for parameter in parameters]
    for batch in batches:
        singly = [one_gradient(model, parameters, rows, row) for row in batch]
        mean = [torch.stack(parts).mean(0) for parts in zip(*singly, strict=True)]
        optimizer.step(parameters, pulled(mean, parameters, began, pull))


def pulled(
    gradients: Sequence[Tensor], parameters: Sequence[Tensor], began: Sequence[Tensor], pull: float
) -> list[Tensor]:
    """Each gradient plus ``pull * (w - w_began)``."""
    return [
        gradient + pull * (now.detach() - before)
        for gradient, now, before in zip(gradients, parameters, began, strict=True)
    ]


def federated_mean(parent: State, deltas: Sequence[State], weights: Sequence[float]) -> dict[str, list[float]]:
    """Parent plus weighted mean of deltas, number by number, as flat lists of Python floats."""
    share = [weight / sum(weights) for weight in weights]
    found = {}
    for name in parent:
        numbers = [float(number) for number in parent[name].flatten()]
        for delta, part in zip(deltas, share, strict=True):
            for place, number in enumerate(delta[name].flatten()):
                numbers[place] += part * float(number)
        found[name] = numbers
    return found


def halved_noise(cost: Callable[[float], float], epsilon: float) -> float:
    """The least noise multiplier that costs at most ``epsilon``, by halving the interval."""
    high = 1000.0
    while cost(high * 0.8) <= epsilon:
        high *= 0.8
    low = high * 0.8
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (low, middle) if cost(middle) <= epsilon else (middle, high)
    return high


def composed_epsilon(events: Sequence[tuple[float, float, int]], delta: float) -> float:
    """Epsilon of (noise multiplier, sampling rate, steps) events, by an accountant that we do not use."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(value_discretization_interval=1e-4)
    for noise, rate, steps in events:
        event = GaussianDpEvent(noise)
        accountant.compose(event if rate == 1 else PoissonSampledDpEvent(rate, event), steps)
    return float(accountant.get_epsilon(delta))


def pooled_epsilon(charges: Sequence[tuple[str, str, float, float, int]], delta: float) -> float:
    """Of (split, pool, noise, rate, steps) charges: pools side by side while there is one split, else all in a row."""
    events: dict[str, list[tuple[float, float, int]]] = {}
    one_split = len({split for split, *_ in charges}) == 1
    for _, pool, noise, rate, steps in charges:
        events.setdefault(pool if one_split else "all", []).append((noise, rate, steps))
    return max((composed_epsilon(found, delta) for found in events.values()), default=0.0)


def class_scores(matrix: Sequence[Sequence[int]]) -> Mapping[str, float]:
    """Accuracy and macro-F1 of whole counts, cell by cell."""
    size = len(matrix)
    total = sum(matrix[true][said] for true in range(size) for said in range(size))
    f1 = []
    for label in range(size):
        hits = matrix[label][label]
        support = sum(matrix[label][said] for said in range(size))
        claimed = sum(matrix[true][label] for true in range(size))
        if support + claimed:
            f1.append(2 * hits / (support + claimed))
    return {"accuracy": sum(matrix[label][label] for label in range(size)) / total, "macro_f1": sum(f1) / len(f1)}


def holm_by_definition(p_values: Sequence[float]) -> list[float]:
    """Each hypothesis' smallest level at which Holm's procedure, step by step, rejects it; levels tried in steps of 0.001."""
    found = [1.0] * len(p_values)
    for level in [step / 1000 for step in range(1000, -1, -1)]:
        left = sorted(range(len(p_values)), key=lambda place: p_values[place])
        while left and p_values[left[0]] <= level / len(left) + 1e-12:
            found[left.pop(0)] = level
    return found


def power_by_drawing(effect: float, count: int, *, level: float, draws: int) -> float:
    """How often a t test of ``count`` normal differences with this mean and spread 1 is significant, by doing it."""
    from scipy import stats

    generator = torch.Generator().manual_seed(0)
    values = torch.randn(draws, count, generator=generator, dtype=torch.float64) + effect
    statistic = values.mean(1) / (values.std(1) / math.sqrt(count))
    return float((statistic.abs() > stats.t.ppf(1 - level / 2, count - 1)).double().mean())


def pre_authentication_encoding(kind: str, payload: bytes) -> bytes:
    """What DSSE v1 signs, byte by byte: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md."""
    encoded = bytearray(b"DSSEv1")
    for part in (kind.encode("utf-8"), payload):
        encoded.append(0x20)
        for digit in str(len(part)):
            encoded.append(ord(digit))
        encoded.append(0x20)
        for byte in part:
            encoded.append(byte)
    return bytes(encoded)


def score_by_search(b: int, c: int, n: int, difference: float, *, steps: int = 200_000) -> float:
    """Standard errors of (c - b) / n above ``difference``, at the likeliest shares of b and c, tried one after the other."""
    least, most = max(0.0, -difference), (1 - difference) / 2
    best, at = -math.inf, least
    for step in range(1, steps):
        share = least + (most - least) * step / steps
        parts = ((b, share), (c, share + difference), (n - b - c, 1 - 2 * share - difference))
        likelihood = sum(count * math.log(chance) for count, chance in parts if count)
        best, at = (likelihood, share) if likelihood > best else (best, at)
    variance = (2 * at + difference - difference**2) / n
    return ((c - b) / n - difference) / math.sqrt(variance)


def outcome_chance(b: int, c: int, n: int, wrong: float, right: float) -> float:
    """Of exactly b and c among n items, by the multinomial coefficient."""
    ways = math.comb(n, b) * math.comb(n - b, c)
    return ways * wrong**b * right**c * (1 - wrong - right) ** (n - b - c)


def exact_p_by_enumeration(b: int, c: int, n: int, *, margin: float, shares: int = 400) -> float:
    """The largest chance, over shares of items that turn right, of an outcome that scores at least as high, at d = -margin."""
    from fedrelease.server.gates.score import score

    least = score(b, c, n, -margin) - 1e-9
    tail = [(i, j) for i in range(n + 1) for j in range(n + 1 - i) if score(i, j, n, -margin) >= least]
    widest, largest = (1 - abs(margin)) / 2, 0.0
    for step in range(shares + 1):
        share = widest * step / shares
        wrong, right = share + max(margin, 0), share + max(-margin, 0)
        largest = max(largest, sum(outcome_chance(i, j, n, wrong, right) for i, j in tail))
    return largest


def percentile_by_loop(clusters: Sequence[Sequence[float]], *, alpha: float, draws: int) -> tuple[float, float]:
    """Bootstrap bounds of the mean of all numbers: draw clusters, average, sort, count off."""
    generator, means = torch.Generator().manual_seed(0), []
    for _ in range(draws):
        drawn = [clusters[int(place)] for place in torch.randint(len(clusters), (len(clusters),), generator=generator)]
        numbers = [number for cluster in drawn for number in cluster]
        means.append(sum(numbers) / len(numbers))
    means.sort()
    return means[int(alpha * draws)], means[int((1 - alpha) * draws)]


def in_levels(vector: Sequence[float], *, block: int, most: int, draws: Sequence[float] | None = None) -> list[float]:
    """What arrives of numbers that share a scale block by block: rounded to the nearest step, or by what was drawn, 0 to 1."""
    found: list[float] = []
    for start in range(0, len(vector), block):
        own = vector[start : start + block]
        step = max(abs(number) for number in own) / most
        for place, number in enumerate(own, start=start):
            steps = number / step if step else 0.0
            found.append(step * (round(steps) if draws is None else math.floor(steps + draws[place])))
    return found


def largest_only(vector: Sequence[float], count: int) -> list[float]:
    """All but the ``count`` numbers furthest from zero replaced by 0; of equally large ones the first stay."""
    ranking = sorted(range(len(vector)), key=lambda place: (-abs(vector[place]), place))[:count]
    return [number if place in ranking else 0.0 for place, number in enumerate(vector)]


def in_half_precision(vector: Sequence[float]) -> list[float]:
    """Each number as IEEE 754 writes it in two bytes."""
    return [float(struct.unpack("<e", struct.pack("<e", number))[0]) for number in vector]


def entities_by_loop(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Every stretch of words that is one name: its first word begins it, the others go on with it, and the next does not."""
    found = set[tuple[str, int, int]]()
    for first in range(len(tags)):
        kind = tags[first][2:]
        begins = tags[first].startswith("B-")
        continues_nothing = tags[first].startswith("I-") and (first == 0 or tags[first - 1][2:] != kind)
        if begins or continues_nothing:
            after = first + 1
            while after < len(tags) and tags[after] == f"I-{kind}":
                after += 1
            found.add((kind, first, after))
    return found
