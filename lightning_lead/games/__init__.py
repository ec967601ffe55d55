"""Small two-player games that know their own answer: losses, joint vector field, its Jacobian and the equilibrium."""

from lightning_lead.games.base import AbstractGame
from lightning_lead.games.bilinear import BilinearGame
from lightning_lead.games.dirac_gan import DiracGAN
from lightning_lead.games.quadratic import QuadraticGame

__all__ = ["AbstractGame", "BilinearGame", "DiracGAN", "QuadraticGame"]
