"""A score: what it needs of the images, what it keeps of the reals, and the numbers that it computes.

    prepare(reals) -> statistics              once per reference, kept on disk under the score's class and settings
    compute(reals, fakes) -> {name: number}   for every set of fakes

A score sees whole sets, in the order of one process and the same on every rank. So it need not know of ranks; one that
shares its work among them takes `shared_blocks` and `combine`. A new score is a file of this package and a line in its
`__init__`; `docs/your_own_score.md` writes one.
"""

from __future__ import annotations

import hashlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_positive
from lightning_lead._errors import ConfigurationError

__all__ = ["NEEDS", "ImageSet", "Moments", "Score", "Statistics"]

Statistics = dict[str, Tensor]
NEEDS = ("moments", "features", "pixels", "logits")


class Moments(NamedTuple):
    """Sums over features x (N, F), in float64: Σ x, Σ x xᵀ and N; those of two sets add up to those of both.

    Example:
        >>> Moments.of(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).total
        tensor([4., 6.], dtype=torch.float64)
    """

    total: Tensor  # (F,)
    products: Tensor  # (F, F)
    number: Tensor  # (), an integer

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Sum over features (N, F)."""
        x = features.double()
        return cls(x.sum(dim=0), x.t().mm(x), torch.tensor(len(x), device=x.device))


class ImageSet:
    """The reals or the fakes as scores see them; what no score has asked for by its `needs` cannot be read.

    Args:
        features: (N, F), float32.
        logits: (N, K), of fakes alone, and of extractors with a classifier.
        pixels: (N, C, H, W), uint8, averaged down where a side is longer than 64.
        moments: of the features; None computes them.
        seed: of what a score draws, such as subsets.
        chunk: images in a forward; sums over chunks, one by one, are those of every run on one process.

    Attributes:
        statistics: of the reals: what the score's `prepare` returned.
        shared: what one score leaves for the next ones of the list, and "picture", (3, H, W) uint8, for people.

    Example:
        >>> fakes = ImageSet(features=torch.ones(4, 2))
        >>> fakes.features.shape, int(fakes.moments.number)
        (torch.Size([4, 2]), 4)
    """

    def __init__(
        self,
        *,
        features: Tensor | None = None,
        logits: Tensor | None = None,
        pixels: Tensor | None = None,
        moments: Moments | None = None,
        seed: int = 0,
        chunk: int | None = None,
    ) -> None:
        check_arguments(ImageSet, locals())
        check_positive(chunk=chunk)
        self._found = {"features": features, "logits": logits, "pixels": pixels}
        self._moments = moments
        self.seed, self.chunk = seed, chunk
        self.statistics: Statistics = {}
        self.shared: dict[str, Tensor] = {}

    @property
    def features(self) -> Tensor:
        """(N, F), float32."""
        return self._of("features")

    @property
    def logits(self) -> Tensor:
        """(N, K)."""
        return self._of("logits")

    @property
    def pixels(self) -> Tensor:
        """(N, C, H, W), uint8."""
        return self._of("pixels")

    @property
    def moments(self) -> Moments:
        """Sums over the features."""
        return Moments.of(self.features) if self._moments is None else self._moments

    def _of(self, what: str) -> Tensor:
        found = self._found[what]
        if found is None:
            raise ConfigurationError(f"Cannot read {what} because no score asks for them; add {what!r} to its needs")
        return found


class Score(ABC):
    """Numbers from real and fake images that have passed a feature network.

    Arguments of a subclass's constructor are its settings, and are kept as attributes of the same names.

    Attributes:
        names: of the numbers that are logged; `compute` may return more, which go into the record alone.
        needs: any of "moments" (sums over the features), "features", "pixels" and "logits" (of the fakes).
        keywords: names in the `metrics` of `GenerativeMetrics` that stand for the score.
        options: arguments of `GenerativeMetrics` -> arguments of the constructor, for a score that is named by keyword.

    Example:
        >>> class Spread(Score):
        ...     names, needs = ("spread",), ("features",)
        ...     def compute(self, reals, fakes):
        ...         return {"spread": float(fakes.features.std() / reals.features.std())}
        >>> x = torch.tensor([[0.0], [1.0], [2.0]])
        >>> Spread().compute(ImageSet(features=x), ImageSet(features=3 * x))
        {'spread': 3.0}
    """

    names: Sequence[str]
    needs: ClassVar[tuple[str, ...]]
    keywords: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def named(cls, words: Sequence[str], **settings: Any) -> Score:
        """Make the score that keywords stand for.

        Args:
            words: some of `keywords`, as they were given.
            **settings: of the constructor.
        """
        return cls(**settings)

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of the constructor by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def check(self, samples: int, reals: int | None, num_features: int) -> None:  # noqa: B027, most refuse nothing
        """Refuse too few images for what is to be computed, before any is drawn; by default none are.

        Args:
            samples: fakes that are to be drawn.
            reals: real images; None as long as it is unknown how many there are.
            num_features: the width of a feature.

        Raises:
            ConfigurationError: too few.
        """

    def prepare(self, reals: ImageSet) -> Statistics:
        """Return what is to be known of the reals and is worth keeping, the same on every rank; by default nothing.

        Args:
            reals: the real images.
        """
        return {}

    @abstractmethod
    def compute(self, reals: ImageSet, fakes: ImageSet) -> dict[str, float]:
        """Return name -> number, the same on every rank; all ranks call it.

        Args:
            reals: the real images, with what `prepare` returned as `reals.statistics`.
            fakes: the samples.
        """

    def protocol(self) -> dict[str, Any]:
        """Return the entries of the protocol: settings in plain types, by their `options` or after the first name."""
        flat = {argument: option for option, argument in self.options.items()}
        return {flat.get(name, f"{self.names[0]}_{name}"): value for name, value in self.settings.items()}

    def statistics_name(self) -> str:
        """Return the name of the file with what `prepare` returned: the class and a hash of its settings."""
        return f"{type(self).__name__}-{hashlib.sha256(repr(self.settings).encode()).hexdigest()[:12]}"
