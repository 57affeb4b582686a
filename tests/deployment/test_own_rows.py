import json
from dataclasses import replace
from pathlib import Path

import pytest

from fedrelease.client.deployment.data_checks import check_data
from fedrelease.data.own import prepare_own
from fedrelease.data.sites import open_site, prepare_sites
from fedrelease.data.tokens import Batch
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


TAGS = ("O", "B-PER", "B-LOC")
SENTENCES = [(["Ada", f"came{n}", "to", "Rome"], ["B-PER", "O", "O", "B-LOC"]) for n in range(120)]


def conll(path: Path) -> Path:
    lines = ("\n".join(f"{word} {tag}" for word, tag in zip(*one, strict=True)) for one in SENTENCES)
    path.write_text("\n\n".join(lines))
    return path


def test_a_partner_with_a_conll_file_gets_the_rows_that_the_same_site_of_a_simulation_gets(
    tiny_base: Path, tmp_path: Path
) -> None:
    rows = [json.dumps({"text": words, "label": tags, "site": "north"}) for words, tags in SENTENCES]
    (tmp_path / "all.jsonl").write_text("\n".join(rows))
    base, model = open_base(str(tiny_base), cache=tmp_path), Model(task="token-classification", labels=TAGS)
    facts = {"base_folder": base.folder, "tokenizer_digest": base.tokenizer_digest}
    simulation, own = (replace(experiment(tmp_path / name), model=model) for name in ("all.jsonl", "own.conll"))
    conll(tmp_path / "own.conll")
    whole = prepare_sites(simulation, cache=tmp_path / "cache", **facts)
    deployed = open_site(prepare_own(own, site="north", folder=tmp_path / "prepared", **facts))
    simulated = open_site(whole.folder / "north")
    assert (deployed.fingerprint, deployed.split) == (simulated.fingerprint, simulated.split)
    batches = [site.train.batch(range(len(site.train))) for site in (deployed, simulated)]
    assert isinstance(batches[0], Batch) and isinstance(batches[1], Batch)
    assert batches[0].targets is not None and batches[1].targets is not None
    assert batches[0].targets.equal(batches[1].targets)


def test_the_check_of_a_partners_words_and_tags_counts_them_tag_by_tag(tmp_path: Path) -> None:
    data = Data(source=str(conll(tmp_path / "own.conll")), partition=Partition(by="iid", sites=1))
    own, check = check_data(data, TAGS, task="token-classification")
    assert (own.rows, list(own.counts)) == (120, [240, 120, 120])
    assert (check.status, "O 240, B-PER 120, B-LOC 120" in check.found) == ("pass", True)
    found, _ = check_data(data, None, task="token-classification")
    assert set(found.labels) == set(TAGS)
