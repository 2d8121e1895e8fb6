"""A frozen vision transformer, block by block, against the model of timm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from learners.base import LearnerError
from learners.pretrained.backbones.base import prepend
from learners.pretrained.backbones.registry import load_backbone
from learners.pretrained.backbones.trunk import Trunk
from learners.pretrained.encoders.libraries import import_extra
from streams.core.schema import Feature

PHOTO = Feature("photo", "image", (3, 20, 24))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """A small untrained model with its weights in a file; pretrained ones are on the hub alone."""
    try:
        timm = import_extra("timm", "timm", "timm")
    except LearnerError as error:
        pytest.skip(str(error))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("test_vit")
        for block in model.blocks:  # of a new model they are near 0
            torch.nn.init.normal_(block.mlp.fc2.weight, std=0.1)
            torch.nn.init.normal_(block.attn.proj.weight, std=0.1)
    file = tmp_path_factory.mktemp("vit") / "weights.pth"
    torch.save(model.state_dict(), file)
    return {"kind": "timm", "model": "test_vit", "weights": str(file), "size": 160}


def photos(n: int) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (n, 3, 20, 24), np.uint8)
    return torch.from_numpy(pixels)


def test_blocks_equal_the_model_of_timm(settings: dict[str, object]) -> None:
    backbone = load_backbone(settings, PHOTO)
    model = backbone._network  # type: ignore[attr-defined]
    pixels = backbone._pixels(photos(3))  # type: ignore[attr-defined]
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(pixels), pre_logits=True)
        hidden = backbone.embed(photos(3))
        assert backbone.lengths(photos(3).numpy()).tolist() == [hidden.states.shape[1]] * 3
        for i in range(backbone.blocks):
            hidden = backbone.block(i, hidden)
        torch.testing.assert_close(backbone.pool(hidden), expected, rtol=0, atol=1e-5)


def test_trained_parts_act_and_those_without_effect_do_not(settings: dict[str, object]) -> None:
    backbone = load_backbone(settings, PHOTO)
    hidden, _ = Trunk(backbone, 1, 1 << 20)(photos(2))
    nothing = torch.zeros(1, 0, backbone.width)
    plain = backbone.block(1, hidden).states
    same = backbone.block(1, prepend(hidden, nothing), (nothing, nothing), torch.zeros_like)
    torch.testing.assert_close(same.states, plain, rtol=0, atol=1e-6)
    keys = torch.ones(1, 2, backbone.width, requires_grad=True)
    prompts = torch.ones(1, 3, backbone.width, requires_grad=True)
    scale = torch.zeros(backbone.width, requires_grad=True)
    changed = backbone.block(1, prepend(hidden, prompts), (keys, keys), lambda x: scale * x)
    (backbone.pool(changed, 3) ** 2).sum().backward()
    for trained in (keys, prompts, scale):
        assert trained.grad is not None
        assert abs(trained.grad).max() > 0
    assert not any(weights.requires_grad for weights in backbone.weights())


def test_other_models_are_refused(settings: dict[str, object], tmp_path: Path) -> None:
    timm = import_extra("timm", "timm", "timm")
    file = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), file)
    with pytest.raises(LearnerError, match="'test_resnet' is no plain vision transformer"):
        load_backbone({**settings, "model": "test_resnet", "weights": str(file)}, PHOTO)
    tiny = tmp_path / "tiny.pth"
    torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), tiny)
    other = {"model": "vit_tiny_patch16_224", "weights": str(tiny), "size": 32}
    with pytest.raises(LearnerError, match="size: the model takes other images"):
        load_backbone({**settings, **other}, PHOTO)
