"""The rules between the rooms, read from the source with ``ast``: nothing is imported, so nothing can hide."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FLWR_MODULES = {
    "client/app.py",
    "client/deployment/answers.py",
    "client/deployment/broken_lines.py",
    "client/deployment/executor.py",
    "client/deployment/guard.py",
    "client/deployment/owed.py",
    "client/deployment/presence.py",
    "client/deployment/supernode.py",
    "client/flower.py",
    "server/app.py",
    "server/arrays.py",
    "server/deployment/application.py",
    "server/deployment/callers.py",
    "server/deployment/control.py",
    "server/deployment/first_query.py",
    "server/flower.py",
    "server/flower_strategies.py",
    "simulations/attack_grid.py",
    "simulations/grid.py",
    "simulations/ray_grid.py",
    "simulations/ray_site.py",
    "simulations/simulate.py",
    "simulations/wire.py",
    "simulations/wire_group.py",
    "simulations/worker.py",
    "src/fedrelease/deployment/bundle.py",
    "src/fedrelease/deployment/pulls.py",
}
FLWR_FOLDERS = ("simulations/bench/",)

# What a room may import besides itself; everything else below `fedrelease` is the shared room.
MAY_IMPORT = {
    "shared": set[str](),
    "strategies": {"shared"},
    "client": {"shared", "strategies"},
    "server": {"shared", "strategies"},
    "simulations": {"shared", "strategies", "client", "server"},
    "cli": {"shared", "strategies", "client", "server", "simulations"},
}
ROOM_FOLDERS = {
    "fedrelease": "src/fedrelease",
    "fedrelease.client": "client",
    "fedrelease.server": "server",
    "fedrelease.simulations": "simulations",
    "fedrelease.strategies": "strategies",
}
IMPURE = {"flwr", "transformers", "opacus", "safetensors", "datasets", "peft"}
FILES_AND_CLOCKS = {"datetime", "fedrelease.files", "io", "os", "pathlib", "shutil", "tempfile", "time"}
UNSAFE_MODULES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
READS_TORCH = "fedrelease.models.converted"
UNSAFE_CALLS = {"torch.load", "yaml.load", "numpy.load", "np.load"}
MACHINE_PATH = re.compile(r"(?<![\w.~{}])/(?:home|Users|root|mnt|srv|work\w*)/")
TEXTS = {
    ".cfg",
    ".conf",
    ".css",
    ".html",
    ".js",
    ".json",
    ".md",
    ".py",
    ".service",
    ".sh",
    ".toml",
    ".txt",
    ".yaml",
    ".yml",
}


def _modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the package."""
    return {
        ".".join((package, *path.relative_to(ROOT / folder).with_suffix("").parts)).removesuffix(".__init__"): path
        for package, folder in ROOM_FOLDERS.items()
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


MODULES = _modules()
EVERY_MODULE = pytest.mark.parametrize("module", sorted(MODULES))


def _tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else "shared"


def _imports(module: str) -> Iterator[str]:
    """Dotted names that the module imports, anywhere in it; ``from a import b`` counts as ``a.b``."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{start}.{alias.name}" for alias in node.names)


def _under(name: str, roots: set[str]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def _names(nodes: list[ast.stmt]) -> set[str]:
    """Names that statements at the top of a module bind."""
    bound: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            bound |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.If | ast.Try):
            bound |= _names(node.body) | _names(node.orelse)
    return bound


def _public_definitions(tree: ast.Module) -> set[str]:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return {node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")}


def _exported(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return [str(name) for name in ast.literal_eval(node.value)]
    return None


def _order(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest: the order that the linter asks for."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def _called(node: ast.AST) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


@EVERY_MODULE
def test_imports_point_one_way(module: str) -> None:
    room = _room(module)
    wrong = [
        name
        for name in _imports(module)
        if _under(name, {"fedrelease"}) and _room(name) not in {room, *MAY_IMPORT[room]}
    ]
    assert wrong == [], f"{room} may import {sorted(MAY_IMPORT[room])}"


@EVERY_MODULE
def test_rooms_are_imported_by_their_full_name(module: str) -> None:
    """``import server`` would load a second copy of the room."""
    assert [name for name in _imports(module) if name.partition(".")[0] in MAY_IMPORT] == []


@EVERY_MODULE
def test_flower_is_imported_by_its_adapters_only(module: str) -> None:
    path = MODULES[module].relative_to(ROOT).as_posix()
    if path not in FLWR_MODULES and not path.startswith(FLWR_FOLDERS):
        assert [name for name in _imports(module) if _under(name, {"flwr"})] == []


@pytest.mark.parametrize("module", [module for module in sorted(MODULES) if _room(module) == "strategies"])
def test_strategies_are_pure(module: str) -> None:
    """Tensors in, tensors out: no other library, no file, no clock."""
    assert [name for name in _imports(module) if _under(name, IMPURE | FILES_AND_CLOCKS)] == []
    assert [_called(node) for node in ast.walk(_tree(module)) if _called(node) in {"open", "print", "input"}] == []


@EVERY_MODULE
def test_nothing_can_run_code_from_bytes(module: str) -> None:
    assert [name for name in _imports(module) if _under(name, UNSAFE_MODULES | UNSAFE_CALLS)] == []
    nodes = list(ast.walk(_tree(module)))
    unsafe = [node for node in nodes if _called(node) in UNSAFE_CALLS | {"eval", "exec"}]
    if module == READS_TORCH:  # one file, of a pinned sha256, once
        assert [ast.unparse(node).endswith("weights_only=True)") for node in unsafe] == [True]
        unsafe = []
    assert [_called(node) for node in unsafe] == []
    allowed = [node for node in nodes if isinstance(node, ast.keyword) and node.arg == "allow_pickle"]
    assert [ast.unparse(node) for node in allowed if ast.unparse(node.value) != "False"] == []


@EVERY_MODULE
def test_a_module_opens_with_what_it_is_for(module: str) -> None:
    assert ast.get_docstring(_tree(module))


@EVERY_MODULE
def test_all_is_sorted_and_holds_the_public_names(module: str) -> None:
    """Every public function and class is in ``__all__``; constants and types may be; nothing in it is missing."""
    tree, exported = _tree(module), _exported(_tree(module))
    if exported is None:
        assert _public_definitions(tree) == set() or module.endswith("__main__")
        return
    assert exported == sorted(set(exported), key=_order)
    assert _public_definitions(tree) <= set(exported) <= _names(tree.body)


def test_the_listed_packages_are_the_folders() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {name if path.name == "__init__.py" else name.rpartition(".")[0] for name, path in MODULES.items()}
    assert setuptools["package-dir"] == ROOM_FOLDERS
    assert setuptools["packages"] == sorted(folders)
    assert folders <= MODULES.keys(), "a folder of modules has an __init__.py"


def test_no_folder_in_the_root_hides_the_installed_package() -> None:
    assert not (ROOT / "fedrelease").exists()


def _texts() -> Iterator[Path]:
    folders = [*ROOM_FOLDERS.values(), "deploy", "docs", "tests", ".ci"]
    files = [path for folder in folders for path in (ROOT / folder).rglob("*")] + list(ROOT.glob("*"))
    for path in files:
        if path.is_file() and (path.suffix in TEXTS or path.name in {"Dockerfile", "Makefile", "run"}):
            yield path


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in _texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert found == []
