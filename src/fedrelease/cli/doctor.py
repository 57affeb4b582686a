"""``fedrelease doctor``: what is installed, what will work on this machine, and what to do about the rest.

Example::

    for finding in examine(Path("releases")):
        print(finding.status, finding.name, finding.found, finding.advice)
"""

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from fedrelease.cli.output import emit_json, put, table, to_stdout
from fedrelease.wording import amount, plain

__all__ = ["Finding", "doctor", "examine"]

LIBRARIES = ("torch", "transformers", "peft", "opacus", "flwr", "safetensors", "datasets", "scikit-learn", "matplotlib")
STARTERS = ("minilm", "four-sites")
NEEDED_MEMORY, WANTED_MEMORY = 1_000_000_000, 3_000_000_000
NEEDED_DISK, WANTED_DISK = 300_000_000, 2_000_000_000
STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One checked thing. ``status`` is ``ok``, ``warn`` (works, but) or ``fail`` (something needed is missing)."""

    name: str
    status: str
    found: str
    advice: str = ""


def doctor(
    store: Annotated[
        Path, typer.Option("--store", metavar="DIR", show_default=False, help="Folder of releases.")
    ] = Path("releases"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Check this machine.

    Says what is installed, what will work here, and what to do about the rest. Ends with exit code 1 when something
    that is needed is missing.
    """
    findings = list(examine(store))
    ok = all(finding.status != "fail" for finding in findings)
    if as_json:
        emit_json({"ok": ok, "checks": [asdict(finding) for finding in findings]})
    else:
        _print(findings)
    if not ok:
        raise typer.Exit(1)


def _print(findings: list[Finding]) -> None:
    rows = table("", "check", "found", "what to do")
    for finding in findings:
        rows.add_row(
            Text(finding.status, style=STYLES[finding.status]),
            finding.name,
            Text(plain(finding.found)),
            Text(plain(finding.advice)),
        )
    console = to_stdout()
    put(console, rows)
    count = sum(finding.status == "fail" for finding in findings)
    console.print()
    console.print("Ready: fedrelease simulate" if count == 0 else f"{count} of these must be mended first.")


def examine(store: Path) -> Iterator[Finding]:
    """Check everything, cheapest first; a check that breaks is itself a finding."""
    for check in (_machine, _memory, _libraries, _processor, _cache, lambda: _store(store)):
        yield from _guarded(check)


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as error:  # whatever is broken on this machine, the other checks still help
        name = getattr(check, "__name__", "check").lstrip("_")
        yield Finding(name=name, status="fail", found=f"{type(error).__name__}: {error}", advice="see this error")


def _machine() -> Iterator[Finding]:
    recent = sys.version_info >= (3, 11)
    yield Finding(name="fedrelease", status="ok", found=metadata.version("fedrelease"))
    yield Finding(
        name="python",
        status="ok" if recent else "fail",
        found=f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        advice="" if recent else "install Python 3.11 or newer",
    )
    cores = _cores()
    yield Finding(
        name="cores",
        status="ok" if cores > 1 else "warn",
        found=str(cores),
        advice="" if cores > 1 else "sites train one after another; that works, only slower",
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> Iterator[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    found = f"{amount(memory.available)} free of {amount(memory.total)}"
    status, advice = _level(memory.available, NEEDED_MEMORY, WANTED_MEMORY)
    yield Finding(name="memory", status=status, found=found, advice=advice and f"{advice}: use --workers 1")


def _level(available: int, needed: int, wanted: int) -> tuple[str, str]:
    if available < needed:
        return "fail", f"{amount(needed)} are needed"
    return ("warn", f"{amount(wanted)} are better") if available < wanted else ("ok", "")


def _libraries() -> Iterator[Finding]:
    wanted = _requirements()
    for name in LIBRARIES:
        yield _library(name, wanted.get(name, ""))
    yield _ray()


def _ray() -> Finding:
    """An optional extra: its absence is no fault."""
    try:
        return Finding(name="ray", status="ok", found=metadata.version("ray"))
    except metadata.PackageNotFoundError:
        advice = 'for simulate --engine ray: pip install -c constraints.txt "fedrelease[ray]"'
        return Finding(name="ray", status="ok", found="not installed (optional)", advice=advice)


def _requirements() -> dict[str, str]:
    """What this package asks for, by name: ``{"torch": "<3,>=2.13"}``."""
    from packaging.requirements import Requirement

    lines = [Requirement(line) for line in metadata.requires("fedrelease") or ()]
    return {line.name: str(line.specifier) for line in lines if line.marker is None}


def _library(name: str, wanted: str) -> Finding:
    from packaging.specifiers import SpecifierSet

    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name=name, status="fail", found="not installed", advice=f'pip install "{name}{wanted}"')
    if SpecifierSet(wanted).contains(version, prereleases=True):
        return Finding(name=name, status="ok", found=version)
    advice = f'tested with {wanted}: pip install "{name}{wanted}"'
    return Finding(name=name, status="warn", found=version, advice=advice)


def _processor() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        yield Finding(name="device", status="ok", found=f"GPU {torch.cuda.get_device_name(0)}")
    else:
        build = "CPU build of torch" if torch.version.cuda is None else "torch for GPUs, but no GPU is usable"
        yield Finding(name="device", status="ok", found=f"CPU ({build})")
    yield Finding(name="vector unit", status="ok", found=_vector_unit())


def _vector_unit() -> str:
    import torch

    flags = _processor_flags()
    bf16 = "bf16 in hardware" if {"avx512_bf16", "amx_bf16", "bf16"} & flags else "no bf16 in hardware"
    return f"{torch.backends.cpu.get_cpu_capability()}, {bf16}, {torch.get_num_threads()} threads"


def _processor_flags() -> set[str]:
    """The processor's feature flags, where the system tells (Linux)."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    named = [line for line in lines if line.lower().startswith(("flags", "features"))]
    return set(named[0].partition(":")[2].split()) if named else set()


def _cache() -> Iterator[Finding]:
    from fedrelease.cache import cache_folder
    from fedrelease.catalog import CATALOG
    from fedrelease.fetch import locate

    folder = cache_folder()
    yield _folder("cache", folder)
    yield _disk("disk of the cache", folder)
    here = [alias for alias in sorted(CATALOG) if locate(alias, folder) is not None]
    missing = [alias for alias in STARTERS if alias not in here]
    yield Finding(
        name="fetched",
        status="warn" if missing else "ok",
        found=", ".join(here) or "nothing",
        advice=f"fetched on first use, or now: fedrelease fetch {' '.join(missing)}" if missing else "",
    )


def _store(folder: Path) -> Iterator[Finding]:
    yield _folder("store", folder)
    yield _disk("disk of the store", folder)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    absolute = folder.absolute()
    return next(path for path in (absolute, *absolute.parents) if path.exists())


def _folder(name: str, folder: Path) -> Finding:
    there = _existing(folder)
    found = str(folder) if there == folder.absolute() else f"{folder} (not made yet)"
    if there.is_dir() and os.access(there, os.R_OK | os.W_OK | os.X_OK):
        return Finding(name=name, status="ok", found=found)
    advice = "set FEDRELEASE_CACHE to a folder that you may write" if name == "cache" else "name another with --store"
    return Finding(name=name, status="fail", found=f"{folder} cannot be written", advice=advice)


def _disk(name: str, folder: Path) -> Finding:
    free = shutil.disk_usage(_existing(folder)).free
    status, advice = _level(free, NEEDED_DISK, WANTED_DISK)
    advice = advice and f"{advice}: free some space"
    return Finding(name=name, status=status, found=f"{amount(free)} free", advice=advice)
