"""Where maxima end: the reverse Weibull distribution fitted to many samples at once, by maximum likelihood.

The largest of many draws of a bounded quantity follows, for large samples, a reverse Weibull distribution

    P(M <= m) = exp(-((location - m) / scale) ** shape)    for m <= location,

and ``location`` is the bound (Fisher and Tippett, 1928; Weng et al., 2018, theorem 4.1). Two of its three parameters
follow from the third: for a given location the distances ``location - m`` are an ordinary Weibull sample, whose shape
solves one equation and whose scale is a mean. What is left is a function of the location alone, the profile
likelihood, and it is searched on a grid and then by golden section.

The likelihood has no maximum of its own: it grows without bound as the location comes down to the largest observation,
with a shape below 1 (Smith, 1985). So only locations whose shape is above :data:`LEAST_SHAPE` are looked at, and only
up to :data:`REACH` times the largest observation; the answer is the highest point inside that range. A likelihood that
is highest at an end of it has no such point, and the fit has failed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.stats import kstwo
from torch import Tensor

LEAST_SHAPE = 1.0
REACH = 2.0
LEAST_OBSERVATIONS = 5  # for three parameters; below it a fit would be an interpolation
CONSTANT = 16  # rounding units within which observations are one number
_NEAREST = 1e-3  # the nearest location looked at, above the largest observation, in spans of the sample
_GRID, _SHAPE_STEPS, _GOLDEN_STEPS = 48, 26, 24
_LOG_SHAPE_RANGE = (-3.0, 9.0)
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class WeibullFit:
    """Fits of many samples, each shape (fit,), float64; NaN where there is none.

    Args:
        location: the estimated bound of the quantity.
        shape: above 1.
        scale: in the quantity's unit.
        p_value: of a Kolmogorov-Smirnov test of the sample against its own fit. The parameters come from the same
            sample, so it is too kind; a small one still speaks against the fit.
        exact: bool, whether the sample is one number up to rounding. Its location is that number; nothing was fitted.
    """

    location: Tensor
    shape: Tensor
    scale: Tensor
    p_value: Tensor
    exact: Tensor

    @property
    def failed(self) -> Tensor:
        """Bool (fit,): no location within the range looked at is likeliest."""
        return self.location.isnan()


def fit_reverse_weibull(maxima: Tensor, precision: float | None = None) -> WeibullFit:
    """Fit every row.

    Args:
        maxima: float (fit, observation), finite, at least 0; at least 5 observations.
        precision: relative rounding error of the observations; None is that of their type.
    """
    precision = torch.finfo(maxima.dtype).eps if precision is None else precision
    maxima = maxima.double()
    largest, smallest = maxima.amax(1), maxima.amin(1)
    span = largest - smallest
    exact = span <= CONSTANT * precision * largest
    fitted = ~exact & (maxima.shape[1] >= LEAST_OBSERVATIONS)
    unknown = torch.full_like(largest, torch.nan)
    location, shape, scale, p_value = (unknown.clone() for _ in range(4))
    location[exact] = largest[exact]
    if fitted.any():
        units = span[fitted, None]
        below = (largest[fitted, None] - maxima[fitted]) / units
        beyond = _likeliest(below, (REACH - 1) * largest[fitted] / span[fitted])
        found_shape, found_scale, _ = _at(below, beyond[:, None].nan_to_num(1.0))
        good = beyond.isfinite()
        rows = fitted.nonzero()[:, 0][good]
        location[rows] = largest[rows] + beyond[good] * span[rows]
        shape[rows], scale[rows] = found_shape[good, 0], found_scale[good, 0] * span[rows]
        p_value[rows] = _kolmogorov_smirnov(maxima[rows], location[rows], shape[rows], scale[rows])
    return WeibullFit(location, shape, scale, p_value, exact)


def _likeliest(below: Tensor, farthest: Tensor) -> Tensor:
    """Return the likeliest location of each row above its largest observation, in spans; NaN where none is inside.

    Args:
        below: float64 (fit, observation): how far each observation is below the largest, in spans, in [0, 1].
        farthest: (fit,): the last location looked at.
    """
    nearest = torch.full_like(farthest, _NEAREST).minimum(farthest / 4)
    steps = torch.linspace(0, 1, _GRID, dtype=below.dtype, device=below.device)
    grid = nearest[:, None] * (farthest / nearest)[:, None] ** steps
    shape, _, likelihood = _at(below, grid)
    allowed = shape > LEAST_SHAPE
    best = likelihood.masked_fill(~allowed, -torch.inf).argmax(1)
    inner = (best > 0) & (best < _GRID - 1)
    rows = torch.arange(len(grid), device=grid.device)
    inside = best.clamp(1, _GRID - 2)
    inner &= allowed[rows, inside - 1]
    low, high = grid[rows, inside - 1].log(), grid[rows, inside + 1].log()
    for _ in range(_GOLDEN_STEPS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        _, _, values = _at(below, torch.stack((left, right), 1).exp())
        falls = values[:, 0] > values[:, 1]
        low, high = torch.where(falls, low, left), torch.where(falls, right, high)
    return ((low + high) / 2).exp().masked_fill(~inner, torch.nan)


def _at(below: Tensor, beyond: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return shape, scale and mean log-likelihood of the best fit for each location, each like ``beyond``.

    Args:
        below: (fit, observation), in spans.
        beyond: (fit, location): locations above the largest observation, in spans, above 0.
    """
    logs = (below[:, None] + beyond[..., None]).log()  # of the distances to the location
    top = logs.amax(-1, keepdim=True)
    logs = logs - top
    mean = logs.mean(-1)
    low, high = (torch.full_like(mean, end) for end in _LOG_SHAPE_RANGE)
    for _ in range(_SHAPE_STEPS):
        middle = (low + high) / 2
        shape = middle.exp()
        weights = (shape[..., None] * logs).exp()
        # Zero at the likeliest shape, and rising with it.
        slope = (weights * logs).sum(-1) / weights.sum(-1) - 1 / shape - mean
        low, high = torch.where(slope < 0, middle, low), torch.where(slope < 0, high, middle)
    shape = ((low + high) / 2).exp()
    log_scale = (shape[..., None] * logs).exp().mean(-1).log() / shape
    likelihood = shape.log() - shape * log_scale + (shape - 1) * mean - 1 - top[..., 0]
    return shape, (log_scale + top[..., 0]).exp(), likelihood


def _kolmogorov_smirnov(maxima: Tensor, location: Tensor, shape: Tensor, scale: Tensor) -> Tensor:
    """Return the exact p-value of each row's largest gap between the fitted and the observed distribution."""
    ordered = maxima.sort(1).values
    distance = ((location[:, None] - ordered) / scale[:, None]).clamp_min(0)
    expected = (-(distance ** shape[:, None])).exp()
    count = maxima.shape[1]
    after = torch.arange(1, count + 1, dtype=expected.dtype, device=expected.device) / count
    gap = torch.maximum((after - expected).amax(1), (expected - after + 1 / count).amax(1))
    return torch.as_tensor(kstwo.sf(gap.cpu().numpy(), count), dtype=maxima.dtype, device=maxima.device)
