"""Vision transformers of timm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from learners.base import LearnerError
from learners.pretrained.backbones.base import Backbone, BackboneConfig, Hidden
from learners.pretrained.blocks.attention import Prefix, attend
from learners.pretrained.blocks.bert_block import Adapter
from learners.pretrained.encoders.base import fingerprint_of
from learners.pretrained.encoders.images.base import Pixels, check_channels
from learners.pretrained.encoders.images.timm_models import load_timm
from learners.pretrained.encoders.libraries import import_extra
from learners.pretrained.encoders.row_batches import move_network
from streams.core.batch import Array, Column, Ints
from streams.core.errors import one_line
from streams.core.schema import Feature


class TimmBackboneConfig(BackboneConfig):
    """Settings of a vision transformer of timm.

    Attributes:
        model: its name in timm, as ``vit_small_patch16_224``.
        weights: a file of weights; None: those that timm loads from the Hugging Face hub.
        size: height and width that images are scaled to: the one in the name of the model.
    """

    location_keys = frozenset({"weights"})

    model: str
    weights: Path | None = None
    size: PositiveInt = Field(224, ge=16, le=1024)


class TimmBackbone(Backbone):
    """A frozen ``VisionTransformer`` of timm (Dosovitskiy et al. 2021).

    A block normalises the input of its attention and of its feed-forward part, and adds what they
    give to what is *not* normalised. An adapter takes the latter, as in AdaptFormer and MOS, and
    what it gives is added beside the feed-forward part.

    A row is an image as it comes. It is scaled as for the encoder ``timm``.
    """

    kind = "timm"
    kinds = frozenset({"image"})
    Config = TimmBackboneConfig
    batch_rows = 8  # more are slower on one core, as in the encoder

    def __init__(self, config: Any, feature: Feature) -> None:
        super().__init__(config, feature)
        check_channels(feature)
        body = load_timm(config.model, config.weights, self.kind)
        self._network = cast(Any, body.module)
        self._check(config)
        self._pixels = Pixels(body.mean, body.deviation, config.size)
        self.row_shape = feature.shape
        self.blocks = len(self._network.blocks)
        self.width = self._network.embed_dim
        self.heads = self._network.blocks[0].attn.num_heads
        settings = (config.size, tuple(body.mean), tuple(body.deviation), config.model)
        self.fingerprint = fingerprint_of("vit", settings, body.contents)
        try:
            states = self.embed(torch.zeros((1, *feature.shape), dtype=torch.uint8)).states
        except Exception as error:  # a model may demand another size
            raise LearnerError(f"size: the model takes other images: {one_line(error)}") from error
        self._tokens = states.shape[1]

    def _check(self, config: Any) -> None:
        """Raise ``LearnerError`` where the model is not made as ``block`` and ``pool`` compute."""
        models = import_extra("timm.models.vision_transformer", "timm", self.kind)
        network = self._network
        plain = type(network) is models.VisionTransformer and network.attn_pool is None
        if not plain or any(not _is_plain(block, models) for block in network.blocks):
            raise LearnerError(
                f"model: {config.model!r} is no plain vision transformer: take one as "
                "'vit_small_patch16_224', or use it as an encoder (stream.encoder), under a "
                "learner on vectors"
            )

    def rows(self, values: Column) -> Array:
        assert isinstance(values, np.ndarray)
        return np.ascontiguousarray(values)

    def lengths(self, rows: Array) -> Ints:
        return np.full(len(rows), self._tokens)

    def embed(self, rows: Tensor) -> Hidden:
        network = self._network
        patches = network.patch_embed(self._pixels(rows))
        return Hidden(network.norm_pre(network._pos_embed(patches)))

    def block(
        self,
        i: int,
        hidden: Hidden,
        prefix: Prefix | None = None,
        adapter: Adapter | None = None,
    ) -> Hidden:
        block, states = self._network.blocks[i], hidden.states
        attention = block.attn
        projected = attention.qkv(block.norm1(states))
        asked = attention.proj(attend(projected, self.heads, hidden.mask, prefix))
        states = states + block.ls1(asked)
        output = states + block.ls2(block.mlp(block.norm2(states)))
        if adapter is not None:
            output = output + adapter(states)
        return Hidden(output, hidden.mask)

    def pool(self, hidden: Hidden, prompts: int = 0) -> Tensor:
        """Return what the model pools, the class token or the mean, or the mean of the prompts."""
        network = self._network
        states = network.norm(hidden.states)
        pooled = states[:, :prompts].mean(1) if prompts else network.pool(states)
        features: Tensor = network.fc_norm(pooled)
        return features

    def weights(self) -> Iterator[Tensor]:
        yield from self._network.state_dict().values()

    def move_to(self, device: str) -> None:
        move_network(self._network, device)
        move_network(self._pixels, device)
        self.device = device


def _is_plain(block: Any, models: Any) -> bool:
    attention = block.attn
    plain = type(block) is models.Block and type(attention) is models.Attention
    parts = ("q_norm", "k_norm", "norm")
    return (
        plain
        and getattr(attention, "gate", None) is None
        and all(isinstance(getattr(attention, name), nn.Identity) for name in parts)
    )
