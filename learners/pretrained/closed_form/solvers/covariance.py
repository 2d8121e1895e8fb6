"""Covariance matrices that can be solved with, however few rows they are from."""

from __future__ import annotations

import numpy as np
import torch

from streams.core.batch import Array

_ATTEMPTS = 20
_ROUNDING = 1e-12  # shares of a diagonal below this are lost in it


def oas_share(covariance: Array, rows: int) -> float:
    """Return how far to shrink a covariance (d, d) of n rows towards a multiple of the identity.

    It is the oracle approximating shrinkage of Chen et al. 2010 ("Shrinkage Algorithms for MMSE
    Covariance Estimation"), as in scikit-learn: close to 1 for few rows, to 0 for many.
    """
    d = len(covariance)
    mean_square = float(np.einsum("ij,ij->", covariance, covariance)) / d**2
    variance = float(np.trace(covariance)) / d
    spread = (rows + 1) * (mean_square - variance**2 / d)
    if spread <= 0:
        return 1.0
    return min((mean_square + variance**2) / spread, 1.0)


def solve_shrunk(covariance: Array, share: float, sides: Array) -> Array:
    """Return P^-1 ``sides`` (d, k) for P = (1 - share) S + share * trace(S) / d * I.

    It is solved by a Cholesky factorisation. Where rounding has made S indefinite, the share grows
    tenfold until there is one. Without any variance P is the identity.

    Args:
        covariance: S (d, d).
        share: from 0 to 1.
        sides: (d, k).
    """
    variance = float(np.trace(covariance)) / len(covariance)
    if not variance > 0:
        return sides
    share = max(share, _ROUNDING)
    plain = torch.from_numpy(covariance / variance)
    for _ in range(_ATTEMPTS):
        matrix = plain * (1 - share)
        matrix.diagonal().add_(share)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if not failed:
            break
        share = min(10 * share, 1.0)
    solved: Array = torch.cholesky_solve(torch.from_numpy(sides / variance), factor).numpy()
    return solved
