import pytest

from fedrelease.wording import amount, duration, number, plain


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (820_000, "820 kB"),
        (999_600, "1.0 MB"),
        (5e12, "5.0 TB"),
    ],
)
def test_an_amount_has_the_unit_that_reads_best(size: int | None, text: str) -> None:
    assert amount(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.44, "0.4 s"), (9.96, "10 s"), (59.6, "1:00"), (185, "3:05"), (3729, "1:02:09")],
)
def test_a_duration_reads_as_people_say_it(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_a_number_that_is_private_is_a_dash() -> None:
    assert (number(None), number(0.12345)) == ("-", "0.123")


def test_an_escape_sequence_cannot_reach_the_terminal() -> None:
    assert plain("a\x1b[2Jb\nc") == "a\\x1b[2Jb c"
