"""What looks wrong in the data of files: a line for each, with its remedy."""

from streams.files.warnings.checks import warnings_of
from streams.files.warnings.label_order import LabelOrder

__all__ = ["LabelOrder", "warnings_of"]
