"""Runs on one CUDA device: data that live there, and a run that goes on where it was stopped; run with `-m gpu`."""

from __future__ import annotations

import gc
import os

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ModelCheckpoint
from recipe_kit import write_store
from tiny import tiny_trainer

from lightning_lead import CIFAR10DataModule, GeneratorEMA, LeadGANModule, LEADStrategy
from lightning_lead.networks import SNGANDiscriminator, SNGANGenerator

ACCELERATOR = "gpu"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
# cuBLAS reads it when it is first used, so before any test; Trainer(deterministic=True) would set it too late
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(autouse=True)
def _one_order_of_sums():
    """Kernels whose sums always have one order, so that two runs can be compared bit for bit."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "cifar10")


class Devices(Callback):
    """Where batches are before Lightning moves them."""

    def __init__(self):
        self.seen = set()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.add(trainer.train_dataloader.dataset.images.device.type)


def width_16():
    return SNGANGenerator(latent_dim=8, width=16), SNGANDiscriminator(width=16)


class Memory(Callback):
    """The bytes that a fit has in use on the device after its last game step."""

    def setup(self, *_, **__):  # the module is not there yet
        gc.collect()
        self.before = torch.cuda.memory_allocated()

    def on_train_batch_end(self, *_):
        self.bytes = torch.cuda.memory_allocated() - self.before


def run(
    store, folder=None, *, steps=4, on_device=True, ckpt_path=None, weights=None, cross="exact", offload=False, more=()
):
    torch.manual_seed(2)
    networks = width_16()
    gan = LeadGANModule(
        *networks, objective="hinge", game=LEADStrategy(cross=cross, offload=offload), discriminator_steps=2
    )
    if weights is not None:
        gan.load_state_dict(weights)
    data = CIFAR10DataModule(folder=str(store), batch_size=32, flip=True, noise=1 / 128, on_device=on_device)
    callbacks = [GeneratorEMA(halflife_images=100), devices := Devices(), *more]
    if folder is not None:
        callbacks.append(ModelCheckpoint(folder, every_n_train_steps=2, save_top_k=-1, filename="{step}"))
    trainer = tiny_trainer(steps, accelerator=ACCELERATOR, callbacks=callbacks, enable_checkpointing=folder is not None)
    torch.manual_seed(1)
    trainer.fit(gan, data, ckpt_path=ckpt_path)
    return {name: tensor.cpu() for name, tensor in gan.state_dict().items()}, devices.seen


def furthest(one, other):
    return max(float((tensor - other[name]).abs().max()) for name, tensor in one.items())


def test_data_on_the_device_are_the_same_data(store):
    resident, there = run(store)
    copied, here = run(store, on_device=False)
    assert (there, here) == ({"cuda"}, {"cpu"})
    assert furthest(resident, copied) == 0


@pytest.mark.parametrize("cross", ["exact", "difference"])
def test_a_run_on_a_device_goes_on_bit_for_bit(store, cross, tmp_path):
    whole, _ = run(store, tmp_path, cross=cross)
    saved = tmp_path / "step=2.ckpt"
    resumed, _ = run(store, tmp_path, cross=cross, ckpt_path=str(saved))
    assert furthest(resumed, whole) == 0
    weights = torch.load(saved, weights_only=True, map_location="cpu")["state_dict"]
    fresh, _ = run(store, steps=2, cross=cross, weights=weights)
    assert furthest(fresh, whole) > 0  # the control: weights alone are another run


@pytest.mark.parametrize("cross", ["exact", "extrapolated"])
def test_an_offloaded_rule_learns_the_same_bits_in_less_memory_and_goes_on_either_way(store, cross, tmp_path):
    used, ends = {}, {}
    for offload in (False, True):
        ends[offload], _ = run(store, tmp_path / str(offload), cross=cross, offload=offload, more=[memory := Memory()])
        used[offload] = memory.bytes
    assert furthest(*ends.values()) == 0
    anchors = sum(p.numel() * p.element_size() for network in width_16() for p in network.parameters())
    assert used[False] - used[True] >= anchors  # blocks of 512 bytes make it more
    for offload in (False, True):
        saved = str(tmp_path / str(not offload) / "step=2.ckpt")
        resumed, _ = run(store, tmp_path / "on", cross=cross, offload=offload, ckpt_path=saved)
        assert furthest(resumed, ends[False]) == 0
