"""The command ``everlearn``: checks that the packages it would import are its own, then hands over.

They have plain names (``streams``, ``learners``, ...), so a folder of the same name that stands
earlier on the path would be imported in their place, and fail far from the cause.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("streams", "buffers", "learners", "pipeline")


def shadowed() -> str | None:
    """One line that names the folder that shadows a package of ours, or None."""
    home = Path(__file__).resolve().parent
    for name in PACKAGES:
        spec = find_spec(name)
        found = Path(spec.origin).resolve().parent if spec is not None and spec.origin else None
        if found != home / name:
            return (
                f"everlearn: package {name!r} is found at {found or 'a folder that is no package'},"
                f" which shadows everlearn's own at {home / name}: rename that folder, or take its"
                " parent off PYTHONPATH"
            )
    return None


def main() -> None:
    """Runs the command line."""
    problem = shadowed()
    if problem is not None:
        sys.stderr.write(problem + "\n")
        sys.exit(2)
    from pipeline.cli.app import app

    app()


if __name__ == "__main__":
    main()
