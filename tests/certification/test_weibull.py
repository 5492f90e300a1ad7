"""The batched fit against scipy's, which maximises the same likelihood one sample at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest, weibull_max

from kdiga.certification.weibull import REACH, fit_reverse_weibull


def sample(shape: float, count: int = 80, fits: int = 12, seed: int = 1) -> np.ndarray:
    return weibull_max.rvs(shape, loc=5.0, scale=0.7, size=(fits, count), random_state=seed)


@pytest.mark.parametrize("shape", [1.8, 3.0, 6.0])
def test_it_finds_the_likelihoods_highest_point(shape):
    data = sample(shape)
    fit = fit_reverse_weibull(torch.from_numpy(data))
    assert not fit.failed.any()
    for row in range(len(data)):
        own = fit.shape[row].item(), fit.location[row].item(), fit.scale[row].item()
        reference = weibull_max.fit(data[row], shape, loc=5.0, scale=0.7)
        found, expected = (weibull_max.logpdf(data[row], *parameters).sum() for parameters in (own, reference))
        assert found >= expected - 1e-4
        assert own[1] == pytest.approx(reference[1], abs=2e-3)
        assert own[0] == pytest.approx(reference[0], rel=2e-3)


def test_the_bound_is_recovered_within_its_spread():
    fit = fit_reverse_weibull(torch.from_numpy(sample(3.0, count=500, fits=40)))
    assert float(fit.location.median()) == pytest.approx(5.0, abs=0.03)
    assert float(fit.shape.median()) == pytest.approx(3.0, abs=0.3)


def test_units_and_order_do_not_matter():
    data = torch.from_numpy(sample(3.0, fits=3))
    fit, again = fit_reverse_weibull(data), fit_reverse_weibull(1000 * data.flip(1))
    assert torch.allclose(again.location, 1000 * fit.location, rtol=1e-6)
    assert torch.allclose(again.scale, 1000 * fit.scale, rtol=1e-4)


def test_the_p_value_is_kolmogorov_and_smirnovs():
    data = sample(3.0, fits=4)
    fit = fit_reverse_weibull(torch.from_numpy(data))
    for row in range(len(data)):
        parameters = fit.shape[row].item(), fit.location[row].item(), fit.scale[row].item()
        assert fit.p_value[row].item() == pytest.approx(
            kstest(data[row], weibull_max(*parameters).cdf).pvalue, rel=1e-6
        )


def test_a_sample_of_two_lumps_is_rejected():
    lumps = torch.cat((torch.linspace(1, 1.01, 50), torch.linspace(2, 2.01, 50)))[None].double()
    fit = fit_reverse_weibull(lumps)
    assert fit.failed.item() or fit.p_value.item() < 0.01


def test_one_number_is_its_own_bound_and_needs_no_fit():
    fit = fit_reverse_weibull(torch.full((2, 20), 3.0) + torch.tensor([[0.0], [1.0]]))
    assert fit.exact.all()
    assert fit.location.tolist() == [3.0, 4.0]
    assert fit.p_value.isnan().all()
    rounded = torch.full((1, 20), 3.0)
    rounded[0, 0] = 3.0 * (1 + 4 * torch.finfo(torch.float32).eps)
    assert fit_reverse_weibull(rounded).exact.all()
    assert not fit_reverse_weibull(rounded.double()).exact.any()


def test_a_likelihood_without_an_inner_maximum_is_a_failure():
    unbounded = 40 + np.random.default_rng(0).gumbel(size=(30, 60))
    edge = 5 + weibull_max.rvs(1.0, size=(300, 60), random_state=0)
    piled_up = 5 + weibull_max.rvs(0.4, size=(30, 60), random_state=0)  # shape below 1: no maximum near the bound
    for data, least in ((unbounded, 8), (np.abs(piled_up), 25), (edge, 200)):
        fit = fit_reverse_weibull(torch.from_numpy(data))
        good, largest = ~fit.failed, torch.from_numpy(data).amax(1)
        assert int(fit.failed.sum()) >= least
        assert bool((fit.location[good] > largest[good]).all())
        assert bool((fit.location[good] <= REACH * largest[good]).all())
        assert bool((fit.shape[good] > 1).all())


def test_too_few_observations_are_not_fitted():
    assert fit_reverse_weibull(torch.rand(3, 4).double()).failed.all()


def test_a_sample_that_is_not_finite_has_no_fit():
    data = torch.from_numpy(sample(3.0, fits=2))
    data[0, 3] = torch.nan
    assert fit_reverse_weibull(data).location.isnan().tolist() == [True, False]
