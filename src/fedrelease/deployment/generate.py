"""Make the Python form of ``releases.proto`` anew. It is committed, so that nobody needs the compiler to run anything.

Example::

    python -m fedrelease.deployment.generate               # needs grpcio-tools, which fedrelease[test] installs

Messages only: the calls are few and are named in :mod:`fedrelease.deployment.release_calls`, typed, instead of in a generated
stub that no type checker can read.
"""

import sys
from importlib import resources
from pathlib import Path

from fedrelease.errors import EngineError

__all__ = ["generate"]

PROTO = "releases.proto"


def generate(into: Path) -> tuple[Path, ...]:
    """Write ``releases_pb2.py`` and its types into a folder.

    Raises:
        EngineError: the compiler is not installed, or refuses the file.
    """
    try:
        from grpc_tools import protoc
    except ImportError as error:
        hint = "pip install 'fedrelease[test]' -c constraints.txt"
        raise EngineError(
            "the compiler of protocol buffers is not installed", value="grpcio-tools", hint=hint
        ) from error
    with resources.as_file(resources.files("fedrelease.deployment") / PROTO) as path:
        outputs = (f"--python_out={into}", f"--pyi_out={into}")
        if protoc.main(["protoc", f"--proto_path={path.parent}", *outputs, PROTO]) != 0:
            raise EngineError("the compiler refuses the file", value=str(path), hint="its own words stand above")
    return into / "releases_pb2.py", into / "releases_pb2.pyi"


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent)
