"""Where a site's random numbers come from, and which rows they choose."""

import math

import pytest
import torch

from fedrelease.client.sampling import Secure, Seeded, poisson_batch, randomness, seeded_generator, shuffled_batches


def test_equal_parts_give_equal_numbers_and_every_part_counts() -> None:
    first, again = (seeded_generator("noise", "key").initial_seed() for _ in range(2))
    others = [
        seeded_generator(*parts).initial_seed() for parts in (("sampling", "key"), ("noise", "kez"), ("noisekey",))
    ]
    assert first == again
    assert first not in others


def test_parts_do_not_run_into_each_other() -> None:
    assert seeded_generator("ab", "c").initial_seed() != seeded_generator("a", "bc").initial_seed()


def test_only_the_word_seeded_makes_numbers_that_repeat() -> None:
    assert isinstance(randomness("seeded", "key"), Seeded)
    for kind in ("secure", "", "Seeded", "anything"):
        assert isinstance(randomness(kind, "key"), Secure)


def test_a_torch_seed_holds_32_bits_only() -> None:
    """Why secure numbers have no torch generator behind them. If this fails one day, Secure has a reason less."""
    one, other = (torch.randn(4, generator=torch.Generator().manual_seed(5 + (k << 32))) for k in (0, 7))
    assert torch.equal(one, other)


def test_secure_numbers_do_not_come_from_a_torch_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a torch generator was asked")

    for name in ("randn", "rand", "normal", "randint"):
        monkeypatch.setattr(torch, name, refuse)
    assert Secure().normal(1.0, (3, 5)).shape == (3, 5)
    assert Secure().uniform(7).shape == (7,)


@pytest.mark.parametrize("source", [Secure(), Seeded(seeded_generator("a", "test"))])
def test_normal_numbers_are_normal(source: Secure | Seeded) -> None:
    numbers = source.normal(3.0, (100, 2000)) / 3.0
    assert float(numbers.mean()) == pytest.approx(0, abs=0.01)  # 200,000 numbers: +- 0.0022
    assert float(numbers.std()) == pytest.approx(1, abs=0.01)
    within = [float((numbers.abs() < bound).double().mean()) for bound in (1, 2, 3)]
    assert within == pytest.approx([math.erf(bound / math.sqrt(2)) for bound in (1, 2, 3)], abs=0.006)
    neighbours = torch.corrcoef(torch.stack([numbers.flatten()[:-1], numbers.flatten()[1:]]))[0, 1]
    assert abs(float(neighbours)) < 0.012


@pytest.mark.parametrize("source", [Secure(), Seeded(seeded_generator("b", "test"))])
def test_uniform_numbers_fill_the_unit_interval_and_never_reach_one(source: Secure | Seeded) -> None:
    numbers = source.uniform(100_000)
    assert 0 <= float(numbers.min()) < 0.001
    assert 0.999 < float(numbers.max()) < 1
    assert float(numbers.mean()) == pytest.approx(0.5, abs=0.005)


def test_secure_numbers_are_finite_even_for_the_extremes_of_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    for byte in (b"\x00", b"\xff"):
        monkeypatch.setattr("os.urandom", lambda count, byte=byte: byte * count)
        assert bool(torch.isfinite(Secure().normal(1.0, (4,))).all())
        assert 0 <= float(Secure().uniform(1)) < 1


def test_nothing_can_be_asked_for() -> None:
    assert Secure().normal(1.0, (0, 3)).shape == (0, 3)
    assert Secure().normal(1.0, ()).shape == ()


def test_poisson_sampling_takes_each_row_on_its_own() -> None:
    source = Seeded(seeded_generator("c"))
    batches = [poisson_batch(50, sample_rate=0.1, source=source) for _ in range(4000)]
    sizes = torch.tensor([len(batch) for batch in batches]).double()
    taken = torch.bincount(torch.cat(batches), minlength=50) / 4000
    assert float(sizes.mean()) == pytest.approx(5, abs=0.15)
    assert float(sizes.var()) == pytest.approx(50 * 0.1 * 0.9, rel=0.1)  # a fixed size would have none
    assert float((taken - 0.1).abs().max()) < 0.02
    assert min(sizes) == 0


def test_rate_one_takes_everybody() -> None:
    for kind in ("seeded", "secure"):
        assert poisson_batch(9, sample_rate=1.0, source=randomness(kind, "key")).tolist() == list(range(9))


def test_shuffled_batches_deal_out_every_row_once_an_epoch() -> None:
    batches = shuffled_batches(10, batch_size=4, generator=seeded_generator("d"))
    epochs = [[next(batches).tolist() for _ in range(3)] for _ in range(2)]
    assert [[len(batch) for batch in epoch] for epoch in epochs] == [[4, 4, 2]] * 2
    assert [sorted(row for batch in epoch for row in batch) for epoch in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]


def test_secure_numbers_of_many_pieces_have_the_deviation_that_was_asked_for() -> None:
    """700,000 numbers, made in three pieces: the deviation of their deviation is 2 / sqrt(2 * 700,000) = 0.0017."""
    found = Secure().normal(2.0, (700, 1000))
    assert found.shape == (700, 1000)
    assert float(found.std()) == pytest.approx(2.0, abs=0.01)
    assert float(found[-1].std()) == pytest.approx(2.0, abs=0.25)
