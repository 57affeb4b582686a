"""One receipt and one manifest, true to life, for all tests that need some of their own."""

from fedrelease.files import digest_bytes
from fedrelease.manifest import (
    Accepted,
    AdapterFacts,
    BaseFacts,
    FederationFacts,
    FileEntry,
    Manifest,
    MetricsFacts,
    PrivacyFacts,
    Refused,
    TaskFacts,
)
from fedrelease.privacy import Receipt

SHA = digest_bytes(b"some bytes")
RECEIPT = Receipt(
    site="north",
    charge="c1",
    pool="train",
    unit="example",
    clip=1.0,
    noise_multiplier=1.1,
    sample_rate=0.1,
    steps=10,
    accountant="prv",
    delta=1e-5,
    epsilon_round=0.7,
    epsilon_total=1.4,
    noise="seeded",
)
PRIVACY = PrivacyFacts(
    unit="example",
    mechanism="dp-sgd",
    clip=1.0,
    accountant="prv",
    delta=1e-5,
    epsilon_round=0.7,
    epsilon_total=1.4,
    noise="seeded",
    sites=(RECEIPT,),
)
MANIFEST = Manifest(
    name="four-sites",
    version="0.1.1",
    verdict="released",
    phase="pilot",
    round=1,
    parents=(),
    files=(FileEntry(path="adapter.safetensors", sha256=SHA, size=10, role="adapter"),),
    base=BaseFacts(ref="minilm", files={"model.safetensors": SHA}),
    adapter=AdapterFacts(kind="lora", rank=8, alpha=16.0, targets="attention", layers="last:2"),
    task=TaskFacts(name="text-classification", labels=("ham", "spam"), max_length=128, tokenizer=SHA),
    federation=FederationFacts(
        name="four-sites",
        strategy="fedadam",
        strategy_params={"lr": 0.01, "steps": 3, "nesterov": True, "mode": "fast"},
        cohort=("north", "south"),
        accepted=(Accepted(site="north", update=SHA, examples=None),),
        refused=(Refused(site="south", reason="not finite"),),
    ),
    privacy=PRIVACY,
    metrics=MetricsFacts(mean={"accuracy": 0.9}, worst={"accuracy": 0.1 + 0.2}, sites={"north": {"accuracy": 0.9}}),
    environment={"python": "3.11", "seed": "7"},
)
