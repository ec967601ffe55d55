"""Inception of 2015-12-05, the network behind every published FID, KID and Inception Score.

    uint8 pixels p ─resize to 299×299─→ scaled to about (−1, 1) → Inception v3 → mean over 8×8 pixels → 2,048 features
    ─W, without its bias─→ 1,008 logits

    resize="tf1":      TensorFlow 1's bilinear, then (p − 128) / 128     as the original graph and torch-fidelity
    resize="bilinear": half-pixel bilinear, then 2p / 255 − 1            as pytorch-fid

A number of one resize does not compare with a number of the other. The score of the original takes the logits without
the classifier's bias, and so does every implementation that means to equal it. The layers are torch-fidelity's, under
torchvision's names; the resize is ours, at a third of the time of theirs and equal to the bit.

References: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016; Heusel et al., "GANs
Trained by a Two Time-Scale Update Rule", NeurIPS 2017; Salimans et al., "Improved Techniques for Training GANs", 2016.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Literal, final, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from lightning_lead._arguments import check_arguments
from lightning_lead._errors import ConfigurationError
from lightning_lead.features._fingerprints import is_counter, weights_sha256
from lightning_lead.features._inception_weights import read_inception_weights
from lightning_lead.features._resizing import resize_tf1

__all__ = ["Inception2015", "Resize"]

Resize = Literal["tf1", "bilinear"]
_SIDE = 299


@final
class Inception2015(nn.Module):
    """The Inception network that FID, KID and the Inception Score are defined by; uint8 in, 2,048 features out.

    `Inception2015.pretrained()` is the one whose numbers mean anything; `Inception2015()` has random weights. It is
    frozen and never leaves eval mode. Features are float32 whatever runs around it: an outer autocast is switched off.

    Args:
        classifier: with the layer to 1,008 classes, which the Inception Score needs; without it there is no `classify`.
        resize: "tf1" or "bilinear", see above.
        channels_last: run the convolutions in that memory format, faster on GPUs with tensor cores.
        dtype: of the convolutions, torch.float32 or torch.float16 (by autocast: weights, batch normalisation's
            statistics and the last mean stay float32). bfloat16 is not offered: it moves FID (docs/features.md).

    Attributes:
        num_features: 2,048.
        num_classes: 1,008, of which the last few are no class of ImageNet.
        score_name: "inception_score", what the callback calls the classifier's score.

    Raises:
        ConfigurationError: another resize or dtype, or torch-fidelity is not installed.

    Example:
        >>> network = Inception2015()
        >>> features = network(torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8))
        >>> features.shape, network.classify(features).shape
        (torch.Size([1, 2048]), torch.Size([1, 1008]))
        >>> hasattr(Inception2015(classifier=False), "classify")
        False
    """

    num_features: int = 2048
    num_classes: int = 1008
    score_name: str = "inception_score"

    def __init__(
        self,
        *,
        classifier: bool = True,
        resize: Resize = "tf1",
        channels_last: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        check_arguments(Inception2015, locals(), but=("resize",))
        if resize not in get_args(Resize):
            raise ConfigurationError(
                "Cannot build Inception because this resize is unknown; take 'tf1', which the published scores use, or "
                f"'bilinear', which pytorch-fid uses (got {resize!r})."
            )
        if dtype not in (torch.float32, torch.float16):
            raise ConfigurationError(
                "Cannot build Inception because its scores hold in float32 and float16 alone; take one of these (the 8 "
                f"bits of bfloat16 move FID by 0.3 %) (got {dtype})."
            )
        super().__init__()
        self.resize, self.channels_last, self.dtype = resize, channels_last, dtype
        self.body = _layers()
        self.fc = nn.Linear(self.num_features, self.num_classes, bias=False) if classifier else None
        if channels_last:
            self.body.to(memory_format=torch.channels_last)
        self.requires_grad_(False).eval()

    @classmethod
    def pretrained(
        cls,
        path: str | Path | None = None,
        *,
        resize: Resize = "tf1",
        channels_last: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> Inception2015:
        """The network with its weights, on the CPU; with `classify` if the file has the classifier.

        Args:
            path: a saved state dict in torchvision's naming, as torch-fidelity's and pytorch-fid's are; None: what
                `lightning-lead fetch inception` has stored.
            resize: as for the class.
            channels_last: as for the class.
            dtype: as for the class.

        Raises:
            ConfigurationError: there is no file, or it holds other weights.
        """
        weights = read_inception_weights(path)
        network = cls(classifier="fc.weight" in weights, resize=resize, channels_last=channels_last, dtype=dtype)
        network.load_weights(weights)
        return network

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Copy weights of torchvision's naming into the network; the classifier's bias is left aside.

        Args:
            weights: name -> tensor; `fc.weight` is needed if the network has the classifier.

        Raises:
            ConfigurationError: a name is missing or too much, or a shape differs.
        """
        given = {name: tensor for name, tensor in weights.items() if not is_counter(name)}
        own = {name.removeprefix("body."): tensor for name, tensor in self.state_dict().items()}
        wanted = {name: tensor for name, tensor in own.items() if not is_counter(name)}
        given.pop("fc.bias", None)
        if self.fc is None:
            given.pop("fc.weight", None)
        shapes = {name: tuple(tensor.shape) for name, tensor in given.items()}
        expected = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
        if shapes != expected:
            wrong = sorted(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))
            found = "; ".join(
                f"{name}: expected {expected.get(name, 'nothing')}, got {shapes.get(name, 'nothing')}"
                for name in wrong[:3]
            )
            raise ConfigurationError(
                "Cannot load the weights because they are not those of the Inception of 2015-12-05 in torchvision's "
                "naming; get them with `lightning-lead fetch inception` (torchvision's own weights are of another "
                f"training: extractor='torchvision:inception_v3') ({len(wrong)} names differ: {found})."
            )
        with torch.no_grad():
            for name, tensor in wanted.items():  # of state_dict, so they share the network's memory
                tensor.copy_(given[name])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the features' weights, then the resize, the dtype and the classifier's SHA-256 if there is one."""
        body = weights_sha256(self.body)
        parts = [body, f"resize={self.resize}", f"dtype={str(self.dtype).removeprefix('torch.')}"]
        return " ".join([*parts, f"classifier={weights_sha256(self.fc)[:12]}"] if self.fc is not None else parts)

    def train(self, mode: bool = True) -> Inception2015:
        """Stay in eval mode: in training mode the batch would be normalised by itself, and every score be wrong."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Features.

        Args:
            images: (n, 3, H, W) or, grey, (n, 1, H, W); uint8 in 0..255.

        Returns:
            (n, 2048), float32.

        Raises:
            ConfigurationError: images of another type or shape.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ConfigurationError(
                "Cannot compute Inception's features because it reads uint8 pixels of shape (n, 3, H, W) or (n, 1, H, "
                "W); turn floats in [−1, 1] into pixels with ((x + 1) * 127.5).round().to(torch.uint8) "
                f"(got {tuple(images.shape)} of {images.dtype})."
            )
        with torch.autocast(images.device.type, torch.float16, enabled=self.dtype == torch.float16):
            features: Tensor = self.body(self._enlarge(images))
        return features.float()

    def _enlarge(self, images: Tensor) -> Tensor:
        """(n, 3, 299, 299), scaled to about (−1, 1)."""
        pixels = images.float()
        if self.resize == "tf1":
            pixels = (resize_tf1(pixels, _SIDE) - 128) / 128
        else:
            pixels = 2 * interpolate(pixels / 255, (_SIDE, _SIDE), mode="bilinear", align_corners=False) - 1
        pixels = pixels.expand(-1, 3, -1, -1)  # after the resize: a third of the work for grey images
        return pixels.contiguous(memory_format=torch.channels_last) if self.channels_last else pixels

    @property
    def classify(self) -> Callable[[Tensor], Tensor]:
        """Function from features (n, 2048) to logits (n, 1008), without the bias; no attribute without classifier."""
        if self.fc is None:
            raise AttributeError("these weights have no classifier")
        return self.fc


class _Mean(nn.Module):
    """Mean over the pixels in float32: half precision's rounding would stay in every feature."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float().mean(dim=(2, 3))


def _layers() -> nn.Module:
    """(n, 3, 299, 299) scaled to about (−1, 1) -> (n, 2048), with random weights."""
    try:
        from torch_fidelity import feature_extractor_inceptionv3 as fidelity  # imports torchvision
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "Cannot build Inception because torch-fidelity, which has its layers, is not installed; "
            f"pip install 'lightning-lead[fid]' (got {error})."
        ) from error
    conv, a, c = fidelity.BasicConv2d, fidelity.InceptionA, fidelity.InceptionC
    layers: list[tuple[str, nn.Module]] = [  # FeatureExtractorInceptionV3 as far as its 2,048 features
        ("Conv2d_1a_3x3", conv(3, 32, kernel_size=3, stride=2)),
        ("Conv2d_2a_3x3", conv(32, 32, kernel_size=3)),
        ("Conv2d_2b_3x3", conv(32, 64, kernel_size=3, padding=1)),
        ("maxpool1", nn.MaxPool2d(3, stride=2)),
        ("Conv2d_3b_1x1", conv(64, 80, kernel_size=1)),
        ("Conv2d_4a_3x3", conv(80, 192, kernel_size=3)),
        ("maxpool2", nn.MaxPool2d(3, stride=2)),
        *((f"Mixed_5{k}", a(width, pool)) for k, width, pool in (("b", 192, 32), ("c", 256, 64), ("d", 288, 64))),
        ("Mixed_6a", fidelity.InceptionB(288)),
        *((f"Mixed_6{k}", c(768, width)) for k, width in (("b", 128), ("c", 160), ("d", 160), ("e", 192))),
        ("Mixed_7a", fidelity.InceptionD(768)),
        ("Mixed_7b", fidelity.InceptionE_1(1280)),
        ("Mixed_7c", fidelity.InceptionE_2(2048)),
        ("avgpool", _Mean()),
    ]
    return nn.Sequential(OrderedDict(layers))
