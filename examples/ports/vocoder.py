"""A small HiFi-GAN (Kong et al., 2020) on synthetic harmonic sound: two kinds of discriminators, features, spectra.

    python examples/ports/vocoder.py [--steps N] [--game "LEAD(cross='extrapolated')"] [--beta1 0.8]

`plain_loop` is the training loop as it was; `Vocoder` is what becomes of it. Every rule can play it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, leaky_relu, pad
from torch.utils.data import DataLoader, TensorDataset

from lightning_lead import AdversarialModule

LENGTH, HOP, RATE = 1024, 16, 8000


def sounds(count: int, seed: int = 0) -> Tensor:
    """Voices of 80 to 400 Hz with eight partials of random strength and phase, (count, 1, LENGTH)."""
    draw = torch.Generator().manual_seed(seed)
    pitch = 80 * 5 ** torch.rand(count, 1, 1, generator=draw)
    partials = torch.arange(1, 9)[None, :, None]
    strength = torch.rand(count, 8, 1, generator=draw) / partials
    phase = 6.2832 * torch.rand(count, 8, 1, generator=draw)
    waves = strength * torch.sin(6.2832 * pitch * partials * torch.arange(LENGTH) / RATE + phase)
    return 0.3 * waves.sum(1, keepdim=True)


def spectrum(wave: Tensor, window: int = 128) -> Tensor:
    """Logarithm of the magnitudes, (n, bands, frames)."""
    hann = torch.hann_window(window, device=wave.device, dtype=wave.dtype)
    bands = torch.stft(wave.squeeze(1), window, HOP, window=hann, return_complex=True)
    return (bands.real.square() + bands.imag.square() + 1e-6).log() / 2


class Generator(nn.Module):
    """Spectra (n, 65, 65) to waves (n, 1, 1024), four times as long at each of two steps."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.start, self.end = nn.Conv1d(65, width, 3, 1, 1), nn.Conv1d(width // 4, 1, 7, 1, 3)
        self.up = nn.ModuleList(nn.ConvTranspose1d(w, w // 2, 8, 4, 2) for w in (width, width // 2))
        self.mix = nn.ModuleList(nn.Conv1d(w, w, 7, 1, 9, dilation=3) for w in (width // 2, width // 4))

    def forward(self, spectra: Tensor) -> Tensor:
        x = self.start(spectra[..., :-1])
        for up, mix in zip(self.up, self.mix, strict=True):
            x = up(leaky_relu(x, 0.1))
            x = x + mix(leaky_relu(x, 0.1))
        return torch.tanh(self.end(leaky_relu(x, 0.1)))


class PeriodCritic(nn.Module):
    """Sees every p-th sample side by side: p columns of a picture."""

    def __init__(self, period: int, width: int = 8) -> None:
        super().__init__()
        self.period, shapes = period, [(1, width), (width, 2 * width), (2 * width, 4 * width)]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, (5, 1), (3, 1), (2, 0)) for a, b in shapes)
        self.last = nn.Conv2d(4 * width, 1, (3, 1), 1, (1, 0))

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = pad(wave, (0, -wave.shape[-1] % self.period), "reflect").unflatten(-1, (-1, self.period))
        features = [x := leaky_relu(layer(x), 0.1) for layer in self.layers]
        return self.last(x), features


class ScaleCritics(nn.Module):
    """See the wave, and a smoother one of half its length."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        shapes = [(1, width, 15, 2, 7), (width, 2 * width, 15, 4, 7)]
        self.scales = nn.ModuleList(nn.ModuleList(nn.Conv1d(*shape) for shape in shapes) for _ in range(2))
        self.last = nn.ModuleList(nn.Conv1d(2 * width, 1, 3, 1, 1) for _ in range(2))
        self.pool = nn.AvgPool1d(4, 2, 2)

    def forward(self, wave: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        found = []
        for layers, last in zip(self.scales, self.last, strict=True):
            x = wave
            features = [x := leaky_relu(layer(x), 0.1) for layer in layers]
            found.append((last(x), features))
            wave = self.pool(wave)
        return found


class Vocoder(AdversarialModule):
    """The game."""

    def __init__(self, game: Any = "LEAD(cross='extrapolated')", beta1: float = 0.8) -> None:
        critics = {"period_2": PeriodCritic(2), "period_5": PeriodCritic(5), "scales": ScaleCritics()}
        super().__init__(Generator(), critics, objective="least_squares", feature_matching=2.0, game=game)
        self.beta1 = beta1

    def unpack_batch(self, batch):
        return spectrum(batch[0]), batch[0]

    def task_losses(self, outputs, inputs, targets):
        return {"spectrum": 10 * l1_loss(spectrum(outputs), inputs)}

    def configure_optimizers(self):
        betas = (self.beta1, 0.99)
        return [torch.optim.AdamW(list(each), lr=1e-3, betas=betas) for each in self.players().values()]


def plain_loop(module: Vocoder, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """The loop that was there before."""
    of_critics, of_generator = module.configure_optimizers()

    def judged(wave):
        outputs = [critic(wave) for critic in module.discriminators.values()]
        return [pair for output in outputs for pair in (output if isinstance(output, list) else [output])]

    for (wave,) in batches:
        fake = module.generator(spectrum(wave))
        pairs = zip(judged(wave), judged(fake.detach()), strict=True)
        of_critics.zero_grad()
        sum(((r - 1).square().mean() + t.square().mean()) / 2 for (r, _), (t, _) in pairs).backward()
        of_critics.step()
        loss = 10 * l1_loss(spectrum(fake), spectrum(wave))
        for (_, real), (t, features) in zip(judged(wave), judged(fake), strict=True):
            matched = sum(l1_loss(a, b) for a, b in zip(features, real, strict=True))
            loss = loss + (t - 1).square().mean() / 2 + 2 * matched
        of_generator.zero_grad()
        loss.backward()
        of_generator.step()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="game steps (default: %(default)s)")
    parser.add_argument("--game", default="LEAD(cross='extrapolated')", help="default: %(default)s")
    parser.add_argument("--beta1", type=float, default=0.8, help="Adam's (default: %(default)s)")
    chosen = parser.parse_args()
    pl.seed_everything(0, verbose=False)
    module, unheard = Vocoder(chosen.game, chosen.beta1), sounds(64, seed=1)
    loader = DataLoader(TensorDataset(sounds(1024)), 16, shuffle=True, drop_last=True)
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    pl.Trainer(max_steps=chosen.steps, **quiet).fit(module, loader)
    with torch.no_grad():
        errors = [l1_loss(spectrum(wave), spectrum(unheard)) for wave in (module(spectrum(unheard)), 0 * unheard)]
    print("mean absolute error of log-spectra: {:.3f}, of silence {:.3f}".format(*errors))
