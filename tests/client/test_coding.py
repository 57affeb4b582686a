"""What a site sends of what it trained: differences in a codec's form, and what is left out in a later round."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from one_site import make_experiment, make_request, make_site
from torch import Tensor

from fedrelease.client.coding import coded
from fedrelease.client.left_behind import shelf_of
from fedrelease.client.site import Site
from fedrelease.codecs import encode, flat
from fedrelease.errors import DataError, UpdateRefused
from fedrelease.experiment import Adapter
from fedrelease.messages import Request
from fedrelease.server.coded import decoded
from fedrelease.transport import Transport
from fedrelease.update import State, read_state, write_state

CAME = {"head.bias": torch.tensor([0.5, -0.5]), "layer.lora_A": torch.ones(2, 3), "layer.lora_B": torch.zeros(4, 2)}
TOP = Transport(codec="top-k", keep=0.25)
"""4 of the 16 numbers."""


@pytest.fixture
def site(tmp_path: Path, tiny_base: Path) -> Site:
    return make_site(tmp_path, tiny_base)


@pytest.fixture
def asked(tmp_path: Path, tiny_base: Path) -> Request:
    return make_request(make_experiment(tmp_path, tiny_base), version="0.1.1")


def travelling(asked: Request, transport: Transport, version: str = "0.1.1") -> Request:
    return replace(asked, experiment=replace(asked.experiment, transport=transport), version=version)


def trained(seed: int = 0, frozen: tuple[str, ...] = ()) -> dict[str, Tensor]:
    numbers = torch.Generator().manual_seed(seed)
    moved = {name: tensor + 1e-2 * torch.randn(tensor.shape, generator=numbers) for name, tensor in CAME.items()}
    return {**moved, **{name: CAME[name].clone() for name in frozen}}


def arrived(request: Request, sent: State, came: State = CAME) -> Tensor:
    """What the server takes the update for, flat."""
    return flat(decoded(request, came, "a", sent)) - flat(came)


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_float32_sends_what_was_trained_and_keeps_nothing(site: Site, asked: Request) -> None:
    state = trained()
    assert same(coded(site, asked, CAME, state), state) and same(decoded(asked, CAME, "a", state), state)
    assert not (site.home / "left-out").exists()


@pytest.mark.parametrize(("codec", "near"), [("float16", 1e-5), ("int8", 2e-4), ("int4", 3e-3)])
def test_the_server_reads_what_was_trained_up_to_the_codecs_step(
    site: Site, asked: Request, codec: str, near: float
) -> None:
    request = travelling(asked, Transport(codec=codec))
    sent = coded(site, request, CAME, trained())
    assert not {"head.bias", "layer.lora_A"} & sent.keys()
    assert float((arrived(request, sent) - (flat(trained()) - flat(CAME))).abs().max()) < near


def test_companions_go_along_as_they_are(site: Site, asked: Request) -> None:
    beside = {"variate/head.bias": torch.tensor([1.0, 2.0])}
    sent = coded(site, travelling(asked, TOP), CAME, {**trained(), **beside})
    assert sent.keys() == {"indices", "values", "variate/head.bias"} and same(
        {"variate/head.bias": sent["variate/head.bias"]}, beside
    )


def test_what_a_round_leaves_out_is_sent_in_later_ones(site: Site, asked: Request) -> None:
    total, moved = torch.zeros(16), torch.zeros(16)
    for number in range(1, 5):
        request = travelling(asked, TOP, f"0.1.{number}")
        total += arrived(request, coded(site, request, CAME, trained(number)))
        moved += flat(trained(number)) - flat(CAME)
        (newest,) = sorted((site.home / "left-out").glob(f"*/0.1.{number}.safetensors"))
        assert torch.allclose(moved - total, flat(read_state(newest)), atol=1e-6)
    assert len(list((site.home / "left-out").glob("*/*"))) == 2, "this round's, and what it began with"


def test_a_round_that_is_asked_again_sends_the_same(site: Site, asked: Request) -> None:
    first, second = travelling(asked, TOP), travelling(asked, TOP, "0.1.2")
    coded(site, first, CAME, trained(1))
    sent = coded(site, second, CAME, trained(2))
    assert same(coded(site, second, CAME, trained(2)), sent)
    without = encode(flat(trained(2)) - flat(CAME), TOP)
    assert not same(without, sent), "the round before left something out"


def test_without_error_feedback_nothing_is_kept_and_the_same_question_is_rounded_alike(
    site: Site, asked: Request
) -> None:
    alone = Transport(codec="int4", error_feedback=False)
    first, second = (travelling(asked, alone, version) for version in ("0.1.1", "0.1.2"))
    assert same(coded(site, first, CAME, trained()), coded(site, first, CAME, trained()))
    assert not same(coded(site, first, CAME, trained()), coded(site, second, CAME, trained()))
    assert not (site.home / "left-out").exists()


def test_a_tensor_that_did_not_move_arrives_unmoved_and_what_is_left_of_it_waits(site: Site, asked: Request) -> None:
    requests = [travelling(asked, TOP, f"0.1.{number}") for number in (1, 2)]
    coded(site, requests[0], CAME, trained(1))
    (kept,) = (read_state(path)["layer.lora_A"] for path in (site.home / "left-out").glob("*/0.1.1.safetensors"))
    assert bool(kept.any())
    sent = coded(site, requests[1], CAME, trained(2, frozen=("layer.lora_A",)))
    assert torch.equal(decoded(requests[1], CAME, "a", sent)["layer.lora_A"], CAME["layer.lora_A"])
    (later,) = (read_state(path)["layer.lora_A"] for path in (site.home / "left-out").glob("*/0.1.2.safetensors"))
    assert torch.equal(later, kept)


def test_a_site_of_a_lower_rank_sends_its_own_shapes_and_follows_when_its_rank_changes(
    site: Site, asked: Request
) -> None:
    def ranked(rank: int, version: str) -> Request:
        model = replace(asked.experiment.model, adapter=Adapter(rank=2, site_ranks={"a": rank}))
        return travelling(replace(asked, experiment=replace(asked.experiment, model=model)), TOP, version)

    state = trained()
    low = {**state, "layer.lora_A": state["layer.lora_A"][:1], "layer.lora_B": state["layer.lora_B"][:, :1]}
    sent = coded(site, ranked(1, "0.1.1"), CAME, low)
    assert len(sent["values"]) == 3, "a quarter of 9 numbers, rounded up"
    shapes = {name: list(tensor.shape) for name, tensor in decoded(ranked(1, "0.1.1"), CAME, "a", sent).items()}
    assert shapes == {"head.bias": [2], "layer.lora_A": [1, 3], "layer.lora_B": [4, 1]}
    (kept,) = (site.home / "left-out").glob("*/0.1.1.safetensors")
    for rank, full in ((2, state), (1, low)):
        request = ranked(rank, "0.1.2")
        write_state(shelf_of(site.home / "left-out", "top-k", request).folder / kept.name, read_state(kept))
        assert len(coded(site, request, CAME, full)["values"]) == {2: 4, 1: 3}[rank]


def test_what_was_left_out_before_labels_came_is_sent_after_they_did(site: Site, asked: Request) -> None:
    coded(site, travelling(asked, TOP), CAME, trained(1))
    more = {**CAME, "head.bias": torch.zeros(3)}
    state = {**trained(2), "head.bias": torch.tensor([0.0, 0.0, 1e-6])}
    sent = coded(site, travelling(asked, TOP, "0.1.2"), more, state)
    assert len(sent["values"]) == 5, "a quarter of 17 numbers, rounded up"


def test_what_was_left_out_is_refused_where_it_does_not_fit_or_cannot_be_read(site: Site, asked: Request) -> None:
    coded(site, travelling(asked, TOP), CAME, trained(1))
    (kept,) = (site.home / "left-out").glob("*/0.1.1.safetensors")
    write_state(kept, {**CAME, "layer.lora_A": torch.ones(2, 5)})
    with pytest.raises(DataError, match="left out does not fit the state"):
        coded(site, travelling(asked, TOP, "0.1.2"), CAME, trained(2))
    kept.write_bytes(b"no safetensors")
    with pytest.raises(UpdateRefused, match="cannot be read"):
        coded(site, travelling(asked, TOP, "0.1.2"), CAME, trained(2))


def test_an_update_that_is_not_finite_stays_at_the_site_with_what_was_left_out_before(
    site: Site, asked: Request
) -> None:
    coded(site, travelling(asked, TOP), CAME, trained(1))
    state = {**trained(2), "head.bias": torch.tensor([1.0, float("nan")])}
    with pytest.raises(UpdateRefused, match="the update is not finite"):
        coded(site, travelling(asked, TOP, "0.1.2"), CAME, state)
    assert [path.name for path in (site.home / "left-out").glob("*/*")] == ["0.1.1.safetensors"]
