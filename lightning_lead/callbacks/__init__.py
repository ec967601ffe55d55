"""Callbacks that look at samples and networks: scores, pictures, and the averaged generator behind both."""

from lightning_lead._images import outside_range, to_uint8
from lightning_lead.callbacks.generative_metrics import GenerativeMetrics
from lightning_lead.callbacks.generator_file import save_generator
from lightning_lead.callbacks.image_writer import ImageWriter
from lightning_lead.callbacks.mode_counter import ModeCounter
from lightning_lead.callbacks.paired_metrics import PairedMetrics
from lightning_lead.callbacks.robust_accuracy import RobustAccuracy
from lightning_lead.callbacks.sample_grid import SampleGrid
from lightning_lead.callbacks.segment import SegmentCheckpoint
from lightning_lead.callbacks.throughput import Throughput
from lightning_lead.gan._sampling import generate
from lightning_lead.gan.ema import GeneratorEMA, find_ema

__all__ = [
    # callbacks
    "GenerativeMetrics",
    "PairedMetrics",
    "RobustAccuracy",
    "SampleGrid",
    "GeneratorEMA",
    "ImageWriter",
    "ModeCounter",
    "SegmentCheckpoint",
    "Throughput",
    # what they share
    "find_ema",
    "generate",
    "outside_range",
    "save_generator",
    "to_uint8",
]
