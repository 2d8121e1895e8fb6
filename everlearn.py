"""The command ``everlearn``: check that the packages to import are its own, then run it.

The packages have plain names (``streams``, ``learners``, ...). A folder of the same name earlier on
the path would be imported instead, and fail far from the cause.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("streams", "buffers", "learners", "pipeline")


def shadowed() -> str | None:
    """Return one line that names a folder that shadows a package of everlearn, or None."""
    home = Path(__file__).resolve().parent
    for name in PACKAGES:
        spec = find_spec(name)
        folder = Path(spec.origin).resolve().parent if spec is not None and spec.origin else None
        if folder != home / name:
            where = folder or "a folder that is no package"
            return (
                f"everlearn: package {name!r} is found at {where}, which shadows everlearn's own at"
                f" {home / name}: rename that folder, or take its parent off PYTHONPATH"
            )
    return None


def main() -> None:
    """Run the command line."""
    problem = shadowed()
    if problem is not None:
        sys.stderr.write(problem + "\n")
        sys.exit(2)
    from pipeline.cli.app import app

    app()


if __name__ == "__main__":
    main()
