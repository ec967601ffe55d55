"""Derivatives of two-player games: gradients, cross terms, and the oracle that rules ask for them."""

from typing import Any

from lightning_lead._lazy import renamed_attribute
from lightning_lead._types import Point, Vector
from lightning_lead.calculus._players import opponent_of
from lightning_lead.calculus._rng import PrivateNoise, mix_seed, private_rng
from lightning_lead.calculus._terms import CrossTerm, HessianTerm, OracleStatistics
from lightning_lead.calculus.derivatives import cross_term, gradient, hessian_product
from lightning_lead.calculus.lookahead import Lookahead, momentum_lag
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.calculus.replay import ForwardRecord, frozen_buffers
from lightning_lead.calculus.swap import Swap

__all__ = [
    "CrossTerm",
    "ForwardRecord",
    "GameOracle",
    "HessianTerm",
    "Lookahead",
    "OracleStatistics",
    "Point",
    "PrivateNoise",
    "Swap",
    "Vector",
    "cross_term",
    "frozen_buffers",
    "gradient",
    "hessian_product",
    "mix_seed",
    "momentum_lag",
    "opponent_of",
    "private_rng",
]

_RENAMED = {
    "Steps": "lightning_lead.calculus:Lookahead",
    "Placement": "lightning_lead.calculus:Swap",
    "SpectralRecord": "lightning_lead.calculus:ForwardRecord",
}
__getattr__: Any = renamed_attribute(__name__, _RENAMED, since="0.2", until="0.3")
