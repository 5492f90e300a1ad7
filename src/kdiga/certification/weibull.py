"""Maximum-likelihood fit of a reverse Weibull distribution to many samples of maxima at once.

The largest of many draws of a bounded quantity follows, for large samples, a reverse Weibull distribution

    P(M <= m) = exp(-((location - m) / scale) ** shape)    for m <= location,

and ``location`` is the bound (Fisher and Tippett, 1928; Weng et al., 2018, theorem 4.1). For a given location the
distances ``location - m`` are an ordinary Weibull sample: its shape solves one equation, its scale is a mean. So the
likelihood is a function of the location alone (profile likelihood). A grid and then a golden-section search find its
maximum.

The likelihood is unbounded: it grows without limit as the location approaches the largest observation, with a shape
below 1 (Smith, 1985). So the search covers only locations with a shape above :data:`LEAST_SHAPE`, up to :data:`REACH`
times the largest observation. If the likelihood is highest at an end of this range, the fit fails.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.stats import kstwo
from torch import Tensor

LEAST_SHAPE = 1.0
REACH = 2.0
LEAST_OBSERVATIONS = 5  # three parameters; fewer observations would be interpolated
CONSTANT = 16  # rounding units within which observations count as equal
_NEAREST = 1e-3  # distance of the first location from the largest observation, in spans of the sample
_GRID, _SHAPE_STEPS, _GOLDEN_STEPS = 48, 26, 24
_LOG_SHAPE_RANGE = (-3.0, 9.0)
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class WeibullFit:
    """Fits of many samples, each float64 (fit,), NaN for a failed fit."""

    location: Tensor  # estimated bound of the quantity
    shape: Tensor  # shape parameter, above 1
    scale: Tensor  # scale parameter, in the unit of the quantity
    # P-value of a Kolmogorov-Smirnov test of the sample against its fit. The parameters come from the same sample, so
    # the test is lenient; a small value still speaks against the fit.
    p_value: Tensor
    # Bool, whether all observations are equal up to rounding. Their value is the location, without a fit.
    exact: Tensor

    @property
    def failed(self) -> Tensor:
        """Whether the likelihood has no maximum inside the range, bool (fit,)."""
        return self.location.isnan()


def fit_reverse_weibull(maxima: Tensor, precision: float | None = None) -> WeibullFit:
    """Fit each row.

    Args:
        maxima: Observations, float (fit, observation), at least 0; a fit needs at least 5, all finite.
        precision: Relative rounding error of the observations; None is that of their type.
    """
    precision = torch.finfo(maxima.dtype).eps if precision is None else precision
    maxima = maxima.double()
    largest, smallest = maxima.amax(1), maxima.amin(1)
    span = largest - smallest
    exact = span <= CONSTANT * precision * largest
    fitted = ~exact & (maxima.shape[1] >= LEAST_OBSERVATIONS) & maxima.isfinite().all(1)
    unknown = torch.full_like(largest, torch.nan)
    location, shape, scale, p_value = (unknown.clone() for _ in range(4))
    location[exact] = largest[exact]
    if fitted.any():
        units = span[fitted, None]
        below = (largest[fitted, None] - maxima[fitted]) / units
        beyond = _most_likely(below, (REACH - 1) * largest[fitted] / span[fitted])
        found_shape, found_scale, _ = _best_fit(below, beyond[:, None].nan_to_num(1.0))
        good = beyond.isfinite()
        rows = fitted.nonzero()[:, 0][good]
        location[rows] = largest[rows] + beyond[good] * span[rows]
        shape[rows], scale[rows] = found_shape[good, 0], found_scale[good, 0] * span[rows]
        p_value[rows] = _kolmogorov_smirnov(maxima[rows], location[rows], shape[rows], scale[rows])
    return WeibullFit(location, shape, scale, p_value, exact)


def _most_likely(below: Tensor, farthest: Tensor) -> Tensor:
    """Return the most likely location of each row, NaN if it is at an end of the range.

    All distances are in spans of the sample, from its largest observation: ``below`` (fit, observation) of the
    observations, in [0, 1]; ``farthest`` (fit,) of the last location; the result (fit,) above it.
    """
    nearest = torch.full_like(farthest, _NEAREST).minimum(farthest / 4)
    steps = torch.linspace(0, 1, _GRID, dtype=below.dtype, device=below.device)
    grid = nearest[:, None] * (farthest / nearest)[:, None] ** steps
    shape, _, likelihood = _best_fit(below, grid)
    allowed = shape > LEAST_SHAPE
    best = likelihood.masked_fill(~allowed, -torch.inf).argmax(1)
    inner = (best > 0) & (best < _GRID - 1)
    rows = torch.arange(len(grid), device=grid.device)
    inside = best.clamp(1, _GRID - 2)
    inner &= allowed[rows, inside - 1]
    low, high = grid[rows, inside - 1].log(), grid[rows, inside + 1].log()
    for _ in range(_GOLDEN_STEPS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        _, _, values = _best_fit(below, torch.stack((left, right), 1).exp())
        falls = values[:, 0] > values[:, 1]
        low, high = torch.where(falls, low, left), torch.where(falls, right, high)
    return ((low + high) / 2).exp().masked_fill(~inner, torch.nan)


def _best_fit(below: Tensor, beyond: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return shape, scale and mean log-likelihood of the best fit for each location.

    ``below`` is (fit, observation); ``beyond`` and the results are (fit, location). Both are distances from the largest
    observation in spans, above 0 for ``beyond``.
    """
    logs = (below[:, None] + beyond[..., None]).log()  # logarithms of the distances to the location
    top = logs.amax(-1, keepdim=True)
    logs = logs - top
    mean = logs.mean(-1)
    low, high = (torch.full_like(mean, end) for end in _LOG_SHAPE_RANGE)
    for _ in range(_SHAPE_STEPS):
        middle = (low + high) / 2
        shape = middle.exp()
        weights = (shape[..., None] * logs).exp()
        # Zero at the most likely shape, and increasing.
        slope = (weights * logs).sum(-1) / weights.sum(-1) - 1 / shape - mean
        low, high = torch.where(slope < 0, middle, low), torch.where(slope < 0, high, middle)
    shape = ((low + high) / 2).exp()
    log_scale = (shape[..., None] * logs).exp().mean(-1).log() / shape
    likelihood = shape.log() - shape * log_scale + (shape - 1) * mean - 1 - top[..., 0]
    return shape, (log_scale + top[..., 0]).exp(), likelihood


def _kolmogorov_smirnov(maxima: Tensor, location: Tensor, shape: Tensor, scale: Tensor) -> Tensor:
    """Return the exact p-value of the largest gap between the fitted and the observed distribution of each row."""
    ordered = maxima.sort(1).values
    distance = ((location[:, None] - ordered) / scale[:, None]).clamp_min(0)
    expected = (-(distance ** shape[:, None])).exp()
    count = maxima.shape[1]
    after = torch.arange(1, count + 1, dtype=expected.dtype, device=expected.device) / count
    gap = torch.maximum((after - expected).amax(1), (expected - after + 1 / count).amax(1))
    return torch.as_tensor(kstwo.sf(gap.cpu().numpy(), count), dtype=maxima.dtype, device=maxima.device)
