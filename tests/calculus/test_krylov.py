"""Conjugate gradients and GMRES against a dense solution."""

from __future__ import annotations

import pytest
import torch

from lightning_lead.calculus._krylov import conjugate_gradient, gmres


@pytest.mark.parametrize("solver", [conjugate_gradient, gmres])
@pytest.mark.parametrize("guessed", [False, True])
def test_solvers_find_the_dense_solution(solver, guessed):
    matrix, b, guess = torch.randn(6, 6).double(), torch.randn(6).double(), torch.randn(6).double()
    if solver is conjugate_gradient:
        matrix = matrix @ matrix.T + torch.eye(6)
    found = solver(lambda v: (matrix @ v[0],), (b,), guess=(guess,) if guessed else None, tolerance=1e-10)
    assert found.converged
    torch.testing.assert_close(found.x[0], torch.linalg.solve(matrix, b))


def test_a_rotation_is_solved_by_gmres_and_not_by_conjugate_gradients():
    quarter_turn, b = torch.tensor([[0.0, -1.0], [1.0, 0.0]]), (torch.tensor([0.0, 1.0]),)
    assert gmres(lambda v: (quarter_turn @ v[0],), b).converged
    assert not conjugate_gradient(lambda v: (quarter_turn @ v[0],), b).converged
