"""Derivatives of two-player games: gradients, cross terms, and the oracle that rules ask for them."""

from lightning_lead._typing import Point, Vector
from lightning_lead.calculus.derivatives import cross_term, gradient
from lightning_lead.calculus.noise import SpectralRecord, frozen_buffers, mix_seed, private_rng
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.calculus.placement import Placement
from lightning_lead.calculus.players import opponent_of
from lightning_lead.calculus.steps import Steps
from lightning_lead.calculus.terms import CrossTerm, HessianTerm, OracleStatistics

__all__ = [
    "CrossTerm",
    "GameOracle",
    "HessianTerm",
    "OracleStatistics",
    "Placement",
    "Point",
    "SpectralRecord",
    "Steps",
    "Vector",
    "cross_term",
    "frozen_buffers",
    "gradient",
    "mix_seed",
    "opponent_of",
    "private_rng",
]
