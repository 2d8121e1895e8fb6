"""``python -m pipeline``: the same as ``everlearn``, from a checkout without an install."""

from everlearn import main

main()
