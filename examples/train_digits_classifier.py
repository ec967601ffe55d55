"""Make the weights of `DigitsClassifier`, the feature network of the digits, and say how good they are.

    python examples/train_digits_classifier.py [FILE]

Trains on four fifths of scikit-learn's digits (1,437 images, stratified split with random_state 0), prints the accuracy
on the other 360, and writes FILE, by default the file that ships with the package. One thread and fixed seeds: the same
machine and torch give the same weights to the bit. Takes about half a minute.

Small shifts, rotations, contrast changes and noise keep the features useful for the images of a half-trained generator.
"""

import math
import sys
from pathlib import Path

import torch
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

import lightning_lead
from lightning_lead.data import DigitsDataModule
from lightning_lead.features import DigitsClassifier

EPOCHS, BATCH_SIZE, LEARNING_RATE = 80, 64, 2e-3
SHIPPED = Path(lightning_lead.__file__).parent / "features" / "weights" / "digits_classifier.pt"


def augmented(images: Tensor) -> Tensor:
    """Each image turned by up to 10°, scaled by up to 10 %, shifted by up to 0.75 pixels; contrast and noise."""
    n = len(images)
    angle = (torch.rand(n) - 0.5) * 2 * math.radians(10)
    scale = 1 + (torch.rand(n) - 0.5) * 0.2
    shift = (torch.rand(n, 2) - 0.5) * 2 * 0.75 / 4  # grid units: the half-width of 4 pixels is one
    cos, sin = angle.cos() / scale, angle.sin() / scale
    turns = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = affine_grid(turns, list(images.shape), align_corners=False)
    ink = grid_sample((images + 1) / 2, grid, align_corners=False)  # outside the image there is no ink
    ink = ink * (1 + (torch.rand(n, 1, 1, 1) - 0.5) * 0.4)
    return (2 * ink - 1 + 0.1 * torch.randn_like(ink)).clamp(-1, 1)


def train(images: Tensor, labels: Tensor) -> DigitsClassifier:
    """A classifier of these images."""
    network = DigitsClassifier()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    steps = EPOCHS * (len(images) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LEARNING_RATE, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH_SIZE)[: len(images) // BATCH_SIZE]:
            logits = network.classify(network.features_of(augmented(images[batch])))
            optimizer.zero_grad()
            cross_entropy(logits, labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def accuracy(network: DigitsClassifier, images: Tensor, labels: Tensor) -> float:
    """Share of images that get the right label, by the uint8 path that metrics take."""
    return (logits_of(network, images).argmax(1) == labels).double().mean().item()


def logits_of(network: DigitsClassifier, images: Tensor) -> Tensor:
    """Logits of float images, by way of bytes."""
    with torch.no_grad():
        return network.classify(network(((images + 1) * 127.5).round().to(torch.uint8)))


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else SHIPPED
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(0)
    digits = DigitsDataModule()
    images, labels = digits.reference_images(), digits.reference_labels()
    split = train_test_split(range(len(images)), test_size=0.2, random_state=0, stratify=labels.tolist())
    seen, held_out = (torch.tensor(part) for part in split)
    network = train(images[seen], labels[seen])
    for name, part in {"training": seen, "held-out": held_out}.items():
        score = accuracy(network, images[part], labels[part])
        loss = cross_entropy(logits_of(network, images[part]), labels[part]).item()
        print(f"{name} accuracy on {len(part)} images: {score:.4f}, cross-entropy {loss:.4f}")
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), target)
    print(f"wrote {target.name}: {target.stat().st_size / 1000:.0f} kB, fingerprint {network.fingerprint}")


if __name__ == "__main__":
    main()
