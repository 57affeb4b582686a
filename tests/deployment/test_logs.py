import json
from pathlib import Path

from fedrelease.deployment.logs import KEPT, Log, Tail, read_log


def numbers(lines: list[dict[str, object]]) -> list[object]:
    return [line["number"] for line in lines]


def test_a_line_says_when_by_whom_and_what_it_is_about(tmp_path: Path) -> None:
    log = Log(tmp_path / "site.log", process="app", site="amazon")
    log.about(run="7", round=2)
    log("answered", seconds=1.5)
    (line,) = (json.loads(text) for text in log.path.read_text().splitlines())
    assert line.pop("time").endswith("+00:00")
    assert line == {"process": "app", "site": "amazon", "run": "7", "round": 2, "event": "answered", "seconds": 1.5}


def test_what_a_line_is_about_can_be_over(tmp_path: Path) -> None:
    log = Log(tmp_path / "site.log", process="app")
    log.about(run="7", round=2)
    log.about(run=None)
    log("no-supernode")
    (line,) = read_log(log.path)
    assert ("run" in line, line["round"]) == (False, 2)


def test_a_full_file_is_moved_away_and_only_so_many_are_kept(tmp_path: Path) -> None:
    log = Log(tmp_path / "gateway.log", process="gateway", largest=300)
    for number in range(100):
        log("refused", number=number)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "gateway.log",
        *(f"gateway.log.{number}" for number in range(1, KEPT + 1)),
    ]
    kept = numbers(read_log(log.path))
    assert kept == list(range(kept[0], 100)), "no line between the oldest that is kept and the last one is lost"
    assert all(path.stat().st_size < 500 for path in tmp_path.iterdir())


def test_who_follows_a_log_gets_every_line_once_although_it_is_moved_away_meanwhile(tmp_path: Path) -> None:
    log, found = Log(tmp_path / "events.log", process="serverapp", largest=300), []
    tail = Tail(log.path)
    for number in range(40):
        log("Released", number=number)
        if number % 2:
            found += numbers(tail.lines())
    tail.close()
    assert found == list(range(40))


def test_who_follows_from_now_on_gets_nothing_that_was_there_before(tmp_path: Path) -> None:
    log = Log(tmp_path / "events.log", process="serverapp")
    log("Released", number=1)
    tail = Tail(log.path, from_now=True)
    log("Released", number=2)
    assert numbers(tail.lines()) == [2]
    tail.close()


def test_a_line_that_a_crash_tore_is_left_out_and_the_next_ones_are_read(tmp_path: Path) -> None:
    log = Log(tmp_path / "events.log", process="serverapp")
    log("Released", number=1)
    with log.path.open("a") as file:
        file.write('{"time": "2026-11-22T12:0\n')
    log("Released", number=2)
    assert numbers(read_log(log.path)) == [1, 2]
