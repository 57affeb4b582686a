import json
from pathlib import Path

import pytest

from fedrelease.data.own import prepare_own
from fedrelease.data.sites import open_site, prepare_sites
from fedrelease.experiment import (
    Data,
    Experiment,
    Federation,
    Model,
    Partition,
    Phase,
    StrategyChoice,
    Training,
)
from fedrelease.models.bases import open_base

COLUMN = Partition(by="column", column="site")


def experiment(source: Path) -> Experiment:
    return Experiment(
        federation=Federation(name="own"),
        model=Model(labels=("bad", "good")),
        training=Training(max_length=32),
        data=Data(source=str(source), partition=COLUMN, holdout=0.3, limit_per_site=20),
        phases=(Phase(name="one", rounds=1, strategy=StrategyChoice(name="fedavg")),),
    )


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("site", ["north", "south"])
def test_a_partner_with_its_own_file_gets_the_rows_that_the_same_site_of_a_simulation_gets(
    tiny_base: Path, tmp_path: Path, site: str
) -> None:
    rows = [
        {"text": f"row {n} of {name}", "label": ("bad", "good")[n % 2], "site": name}
        for n in range(30)
        for name in ("north", "south")
    ]
    base = open_base(str(tiny_base), cache=tmp_path)
    facts = {"base_folder": base.folder, "tokenizer_digest": base.tokenizer_digest}
    whole = prepare_sites(experiment(write(tmp_path / "all.jsonl", rows)), cache=tmp_path / "cache", **facts)
    own = write(tmp_path / "own.jsonl", [{k: row[k] for k in ("text", "label")} for row in rows if row["site"] == site])
    alone = prepare_own(experiment(own), site=site, folder=tmp_path / "prepared", **facts)
    simulated, deployed = open_site(whole.folder / site), open_site(alone)
    assert (deployed.fingerprint, deployed.split) == (simulated.fingerprint, simulated.split)
    assert (deployed.name, deployed.label_counts) == (simulated.name, simulated.label_counts)
    assert deployed.train.labels.tolist() == simulated.train.labels.tolist()


def test_rows_are_prepared_once_and_anew_when_the_file_changes(tiny_base: Path, tmp_path: Path) -> None:
    rows = [{"text": f"row {n}", "label": ("bad", "good")[n % 2]} for n in range(10)]
    base = open_base(str(tiny_base), cache=tmp_path)
    facts = {"base_folder": base.folder, "tokenizer_digest": base.tokenizer_digest, "folder": tmp_path / "prepared"}
    source = write(tmp_path / "own.jsonl", rows)
    first = prepare_own(experiment(source), site="north", **facts)
    stamp = (first / "site.json").stat().st_mtime_ns
    assert prepare_own(experiment(source), site="north", **facts) == first
    assert (first / "site.json").stat().st_mtime_ns == stamp
    write(source, [*rows, {"text": "one more", "label": "bad"}])
    assert prepare_own(experiment(source), site="north", **facts) != first
