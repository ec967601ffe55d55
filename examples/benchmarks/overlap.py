"""When what happens in a game step on several processes: all-reduces, and the forward passes that run meanwhile.

    python examples/benchmarks/overlap.py [--processes 2] [--discriminator-steps 2] [--batch-size 8]

Trains SNGAN-ResNet32 on noise by exact LEAD, over gloo on this machine, and prints the third game step of rank 0.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from lightning_lead import LeadGANModule
from lightning_lead.networks import SNGANDiscriminator, SNGANGenerator

STEP = 3


class Timeline(pl.Callback):
    """Writes down when an all-reduce is asked for and when it is over, when fakes are made, and when one waits."""

    def __init__(self) -> None:
        self.spans: list[list[Any]] = []

    def _span(self, what: str) -> list[Any]:
        span = [what, time.perf_counter(), None]
        self.spans.append(span)
        return span

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        """Look over the shoulders of what is watched."""
        make, reduce = module._fakes, torch.distributed.all_reduce

        def fakes(batch: Any) -> torch.Tensor:
            span = self._span("generator forward")
            made: torch.Tensor = make(batch)
            span[2] = time.perf_counter()
            return made

        def all_reduce(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            span = self._span(f"all-reduce of {tensor.numel() * tensor.element_size() / 2**20:.1f} MiB")
            work = reduce(tensor, *args, **kwargs)
            if work is not None:
                work.get_future().add_done_callback(lambda _: span.__setitem__(2, time.perf_counter()))
            return work

        module._fakes, torch.distributed.all_reduce = fakes, all_reduce

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        """Begin anew with every step."""
        self.spans.clear()
        self._begin = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        """Print the step that was asked for."""
        end = time.perf_counter()
        if trainer.global_step == STEP and trainer.is_global_zero:
            time.sleep(0.1)  # the callback of the last all-reduce runs in a thread of its own
            for what, start, stop in self.spans:
                left, right = ((moment - self._begin) / (end - self._begin) for moment in (start, stop or end))
                bar = " " * round(60 * left) + "█" * max(1, round(60 * (right - left)))
                print(f"{what:24} {1000 * (start - self._begin):6.0f} – {1000 * (stop - self._begin):5.0f} ms  {bar}")
            print(f"{'game step':24} {0:6} – {1000 * (end - self._begin):5.0f} ms  {'█' * 60}", flush=True)


def main() -> None:
    """Train three game steps."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--discriminator-steps", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8, help="of one discriminator update of one process")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel("ERROR")
    steps = chosen.discriminator_steps
    gan = LeadGANModule(SNGANGenerator(), SNGANDiscriminator(), objective="hinge", discriminator_steps=steps)
    size = chosen.batch_size * steps
    images = torch.rand(size * STEP * chosen.processes, 3, 32, 32) * 2 - 1
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=chosen.processes,
        strategy="ddp",
        max_steps=STEP,
        callbacks=[Timeline()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(gan, DataLoader(images, size))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
