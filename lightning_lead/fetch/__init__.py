"""Data and weights that training and scoring need, fetched once, checked, and kept in one folder.

lightning-lead fetch cifar10 && lightning-lead fetch inception

Nothing here imports torch before it has to.
"""

from lightning_lead.fetch._store import FetchError, home
from lightning_lead.fetch.cifar10 import fetch_cifar10, find_cifar10
from lightning_lead.fetch.command import fetch
from lightning_lead.fetch.inception import fetch_inception, find_inception
from lightning_lead.fetch.mnist import fetch_mnist, find_mnist

__all__ = [
    "FetchError",
    "fetch",
    "fetch_cifar10",
    "fetch_inception",
    "fetch_mnist",
    "find_cifar10",
    "find_inception",
    "find_mnist",
    "home",
]
