"""Hold the feature network to a known number: FID of CIFAR-10's test images against its training images.

    lightning-lead fetch cifar10 && lightning-lead fetch inception
    python examples/inception_acceptance.py                                # 10,000 against 50,000; on a GPU, minutes
    python examples/inception_acceptance.py --test 1000 --train 1000 --rival

All 10,000 against all 50,000 is known to be about 3.15; fewer images read higher, because FID is biased upwards. With
`--rival` the same images pass torch-fidelity's own extractor, too, and its own code makes the distance of its features:
everything but the weights, the layers and the images is then another implementation.

Features are kept in `--folder`, 250 images to a file, so a run that was cut off goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_lead.calculus._float32 import full_float32
from lightning_lead.features import Inception2015
from lightning_lead.fetch import find_cifar10, find_inception
from lightning_lead.metrics import FID, ImageSet

CHUNK = 250


def cifar10(split: str, count: int) -> np.ndarray:
    """The first images, (count, 3, 32, 32) uint8, as a memory map."""
    folder = find_cifar10()
    if folder is None:
        raise SystemExit("CIFAR-10 is not on this machine; get it with `lightning-lead fetch cifar10`")
    images: np.ndarray = np.load(folder / f"{split}_images.npy", mmap_mode="r")
    return images[:count]


def features_of(
    images: np.ndarray, network: Callable[[Tensor], Tensor], place: Path, *, device: str, batch: int
) -> Tensor:
    """(n, 2048) on the CPU; chunks that `place` has are read, and not computed again."""
    place.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in range(0, len(images), CHUNK):
        file = place / f"{start:06d}-{min(start + CHUNK, len(images)):06d}.pt"
        if not file.is_file():
            chunk = torch.from_numpy(images[start : start + CHUNK].copy())
            with full_float32():  # as the scores have it
                part = torch.cat([network(b.to(device)).cpu() for b in chunk.split(batch)])
            torch.save(part, file.with_suffix(".part"))
            file.with_suffix(".part").rename(file)
            print(f"{file.parent.name}: {start + len(part)} of {len(images)}", flush=True)
        parts.append(torch.load(file, weights_only=True))
    return torch.cat(parts)


def our_distance(test: Tensor, train: Tensor) -> float:
    return FID().compute(ImageSet(features=train), ImageSet(features=test))["fid"]


def rival_network(folder: Path, device: str) -> Callable[[Tensor], Tensor]:
    """torch-fidelity's network with our weights."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    weights = torch.load(find_inception(), weights_only=True)
    # it insists on a classifier, which the features do not pass
    weights = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008), **weights}
    torch.save(weights, folder / "with_classifier.pt")
    network = FeatureExtractorInceptionV3("rival", ["2048"], str(folder / "with_classifier.pt")).to(device)
    return lambda images: network(images)[0]


def rival_distance(test: Tensor, train: Tensor) -> float:
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    statistics = [fid_features_to_statistics(features) for features in (test, train)]
    distance: float = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    return distance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--test", type=int, default=10_000, help="test images, the first so many")
    parser.add_argument("--train", type=int, default=50_000, help="training images, the first so many")
    parser.add_argument("--rival", action="store_true", help="torch-fidelity's network and distance as well")
    parser.add_argument("--resize", choices=["tf1", "bilinear"], default="tf1")
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=25, help="images per forward; more on a GPU")
    parser.add_argument("--folder", type=Path, default=Path("inception_features"), help="where features are kept")
    settings = parser.parse_args()
    images = {"test": cifar10("test", settings.test), "train": cifar10("train", settings.train)}
    network = Inception2015.pretrained(
        resize=settings.resize, dtype=getattr(torch, settings.dtype), channels_last=settings.channels_last
    ).to(settings.device)
    name = network.fingerprint + f" channels_last={settings.channels_last} {settings.device}"
    key = hashlib.sha256(name.encode()).hexdigest()[:12]

    how = {"device": settings.device, "batch": settings.batch}

    def compute(network: Callable[[Tensor], Tensor], key: str) -> dict[str, Tensor]:
        return {
            split: features_of(part, network, settings.folder / f"{key}-{split}", **how)
            for split, part in images.items()
        }

    ours = compute(network, key)
    print(f"{name}\nours: FID {our_distance(**ours):.6f}, {settings.test} test images against {settings.train}")
    if settings.rival:
        rival = compute(rival_network(settings.folder, settings.device), f"torch-fidelity-{settings.device}")
        print(f"torch-fidelity: FID {rival_distance(**rival):.6f}")
        apart = max(((ours[s] - rival[s]).abs().max() / rival[s].abs().max()).item() for s in ours)
        print(f"features: at most {apart:.1e} of the largest apart")


if __name__ == "__main__":
    main()
