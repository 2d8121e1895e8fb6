"""A package, so that `tests` is this one wherever a dependency installs one of the same name."""
