"""Linear structural models, whose invariant predictor is known: causes x₁ of y, and x₂ that depends on y otherwise.

    "chain", environment e > 0       h = e n₁,  x₁ = h + e n₂,  y = γᵀx₁ + ηᵀh + σ_y n₃,  x₂ = κ y + h + σ₂ n₄
                                     σ_y = e and σ₂ = 1; or, heteroskedastic, σ_y = 1 and σ₂ = e; without `hidden` h = 0
    "confounded", environment e ≠ 0  x₁ = n₁,  h = n₂,  y = γᵀx₁ + ηᵀh + n₃,  x₂ = e κ ∘ h + n₄      (∘ by component)

The inputs are (x₁, x₂), all of one width, and the n are standard normal. The invariant predictor is (γ, 0). Least
squares in a confounded environment gives γ and e κη/(e²κ² + 1), of the sign of e: where signs differ, the equilibrium
of two bounded players is the invariant predictor, and where they agree it keeps the smaller of both.

References: Arjovsky et al., "Invariant Risk Minimization", 2019, section 5.1 (the chain, here with a scalar y); Ahuja,
Shanmugam and Dhurandhar, "Linear Regression Games: Convergence Guarantees to Approximate Out-of-Distribution
Solutions", AISTATS 2021 (the confounded one).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

import torch
from torch import Tensor

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_count, require_number
from lightning_lead._errors import ConfigurationError
from lightning_lead.data._domain_base import AbstractDomainDataModule, DomainSamples, check_domain_names, generator_of

__all__ = ["LinearSEMDataModule"]


@final
class LinearSEMDataModule(AbstractDomainDataModule):
    """Batches (inputs, targets, groups) of a linear model: float32 (n, 2·dim), float32 (n,), int64 (n,).

    Args:
        model: "chain", that of the IRM paper, or "confounded".
        environments: a number for each training environment: a scale > 0 of the chain; or a strength that is not 0,
            whose sign is that of the spurious correlation.
        test: the number of the held-out environment.
        hidden: of the chain, let h confound x₁, y and x₂.
        heteroskedastic: of the chain, change the noise of x₂ with the environment and not that of y.
        scramble: turn the inputs by an orthogonal matrix.
        exact: make first and second moments of each sample exactly those of the model, so that least squares is what
            theory says. It takes all samples: batch_size=None.
        dim: width of x₁, of x₂ and of h, ≥ 1.
        num_samples: of each environment, ≥ 1; > 3 dim + 1 to be exact.
        batch_size: samples per training batch and rank, divided by the environments, or None for all of them.
        validation: share of each training environment that is kept for selection, in [0, 0.9]; 0 to be exact.
        seed: of coefficients, samples, parts and order, ≥ 0.
        num_workers: loader processes, ≥ 0.

    Attributes:
        domains: "e0.2" and the like; the last one is `held_out`.
        invariant: coefficients (2·dim,) of the invariant predictor.
        num_groups: the number of training environments.

    Raises:
        ConfigurationError: a setting out of its range, one environment alone, or a test one that is among them.

    Example:
        >>> data = LinearSEMDataModule(model="confounded", environments=(1.0, -0.5), test=-2.0, dim=1)
        >>> inputs, targets, groups = next(iter(data.train_dataloader()))
        >>> inputs.shape, [round(w, 3) for w in data.invariant.tolist()]
        (torch.Size([2000, 2]), [-0.984, 0.0])
    """

    num_classes: int | None = None

    def __init__(
        self,
        *,
        model: Literal["chain", "confounded"] = "chain",
        environments: Sequence[float] = (0.2, 2.0),
        test: float = 5.0,
        hidden: bool = True,
        heteroskedastic: bool = False,
        scramble: bool = False,
        exact: bool = False,
        dim: int = 5,
        num_samples: int = 1000,
        batch_size: int | None = None,
        validation: float = 0.0,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        check_arguments(LinearSEMDataModule, locals())
        chain = model == "chain"
        why = "it is a scale" if chain else "it is a strength with a sign"
        numbers = [
            require_number(name, value, low=0.0 if chain else -1e6, high=1e6, why=why, closed=False)
            for name, value in (*(("environments", e) for e in environments), ("test", test))
        ]
        if 0.0 in numbers:
            raise ConfigurationError(f"Cannot use environments because {why}; pass no 0 (got {numbers})")
        names = [f"e{number:g}" for number in numbers]
        check_domain_names("LinearSEMDataModule", names[:-1], names[-1])
        super().__init__(
            domains=names,
            held_out=names[-1],
            batch_size=batch_size,
            validation=validation,
            seed=seed,
            num_workers=num_workers,
        )
        for name, count in (("dim", dim), ("num_samples", num_samples)):
            check_count("LinearSEMDataModule", name, count)
        if exact and (num_samples <= 3 * dim + 1 or validation or batch_size is not None):
            raise ConfigurationError(
                "Cannot make moments exact in parts of a sample, or in fewer samples than there are numbers in one; "
                f"pass num_samples > {3 * dim + 1}, validation=0 and batch_size=None (got {num_samples}, {validation} "
                f"and {batch_size})"
            )
        self.model, self.numbers, self.dim, self.num_samples = model, tuple(numbers), dim, num_samples
        self.hidden, self.heteroskedastic, self.scramble, self.exact = hidden, heteroskedastic, scramble, exact
        drawn = generator_of(f"coefficients/{seed}")
        signs = torch.randint(2, (dim,), generator=drawn).double() * 2 - 1
        sizes = 0.5 + torch.rand(3, dim, generator=drawn, dtype=torch.float64)
        self._gamma, self._eta, self._kappa = signs * sizes[0], sizes[1], sizes[2]  # η and κ > 0: e alone has the sign
        turn, _ = torch.linalg.qr(torch.randn(2 * dim, 2 * dim, generator=drawn, dtype=torch.float64))
        self._turn = turn if scramble else torch.eye(2 * dim, dtype=torch.float64)
        self.invariant = self._turn @ torch.cat([self._gamma, torch.zeros(dim, dtype=torch.float64)])

    def load(self) -> Sequence[DomainSamples]:
        """Inputs and targets of each environment."""
        made = [self._made(e, generator_of(f"samples/{self.seed}/{e!r}")) for e in self.numbers]
        return [DomainSamples(inputs.float(), targets.float()) for inputs, targets in made]

    def _made(self, e: float, drawn: torch.Generator) -> tuple[Tensor, Tensor]:
        noise = torch.randn(self.num_samples, 3 * self.dim + 1, generator=drawn, dtype=torch.float64)
        if self.exact:  # columns orthogonal to each other and to a constant, of mean square 1
            ones = torch.ones(self.num_samples, 1, dtype=torch.float64)
            noise = torch.linalg.qr(torch.cat([ones, noise], dim=1))[0][:, 1:] * self.num_samples**0.5
        first, second, last, single = noise.split([self.dim, self.dim, self.dim, 1], dim=1)
        if self.model == "confounded":
            causes, hidden = first, second
            targets = causes @ self._gamma + hidden @ self._eta + single[:, 0]
            effects = e * self._kappa * hidden + last
        else:
            of_target, of_effect = (1.0, e) if self.heteroskedastic else (e, 1.0)
            hidden = e * first * self.hidden
            causes = hidden + e * second
            targets = causes @ self._gamma + hidden @ self._eta + of_target * single[:, 0]
            effects = targets[:, None] * self._kappa + hidden + of_effect * last
        return torch.cat([causes, effects], dim=1) @ self._turn.T, targets
