"""A folder with an untrained BERT of two small layers, and the tokenizer of MiniLM."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from learners.pretrained.encoders.libraries import transformers_library
from learners.pretrained.encoders.texts.model_files import minilm_folder


def write_small_bert(folder: Path, **settings: object) -> Path:
    """Write the files, with 16 numbers a token and places for 40. Return the folder."""
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    stated = {**size, "intermediate_size": 32, "max_position_embeddings": 40, **settings}
    with transformers_library("minilm") as transformers, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.BertModel(transformers.BertConfig(**stated))
        for name, weights in model.named_parameters():  # they start near zero, and biases at it
            torch.nn.init.normal_(weights, 1 if "LayerNorm.weight" in name else 0, 0.2)
        model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copy(minilm_folder("minilm") / file, folder)
    return folder
