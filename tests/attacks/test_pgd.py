"""Inner attacks on objectives whose every iterate is known, and the geometry of balls by hand."""

from __future__ import annotations

import math

import pytest
import torch

from kdiga.attacks import PGD, project, steepest, uniform_start
from kdiga.attacks.balls import unit
from kdiga.errors import InputError
from kdiga.model_state import seeded
from kdiga.types import ThreatModel

LINF, L2 = ThreatModel("linf", 0.2), ThreatModel("l2", 0.2)


def pixels(*values: float, dtype=torch.float64) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype).view(-1, 1, 1, 1)


def test_the_best_iterate_and_the_last_are_two_things():
    """Towards a peak at 0.57 in steps of 0.05 from 0.5: 0.55, 0.6, 0.55, 0.6; 0.55 is the nearest. And from above."""

    def height(images):
        return -(images[:, 0, 0, 0] - torch.tensor([0.57, 0.43])).abs()

    images = pixels(0.5, 0.5)
    settings = {"threat": LINF, "steps": 4, "step_size": 0.05, "start": "clean"}
    assert PGD(**settings)(height, images).flatten().tolist() == pytest.approx([0.6, 0.4])
    assert PGD(**settings, keep_best=True)(height, images).flatten().tolist() == pytest.approx([0.55, 0.45])
    seen = []
    PGD(**settings, keep_best=True)(lambda x: seen.append(x) or height(x), images)
    assert len(seen) == 5, "one more look than steps"


def test_the_start_counts_and_so_does_the_last_iterate():
    images = pixels(0.5)
    settings = {"threat": LINF, "step_size": 0.1, "start": "clean", "keep_best": True}
    peak = PGD(**settings, steps=3)(lambda x: -(x[:, 0, 0, 0] - 0.501).abs(), images)
    assert peak.item() == 0.5
    assert PGD(**settings, steps=2)(lambda x: x[:, 0, 0, 0], images).item() == pytest.approx(0.7)
    assert images.item() == 0.5
    assert not images.requires_grad


@pytest.mark.parametrize(("steps", "reached"), [(1, 0.2), (2, 0.1), (3, 0.15), (9, 0.2)])
def test_the_usual_step_is_eps_or_a_quarter_of_it(steps, reached):
    attack = PGD(threat=LINF, steps=steps, start="clean")
    assert attack(lambda x: x[:, 0, 0, 0], pixels(0.5)).item() == pytest.approx(0.5 + reached)


def test_settings_at_the_edge_are_accepted():
    assert PGD(threat=LINF, steps=1, step_size=5.0).step_size == 5.0
    assert PGD(threat=LINF, steps=2, step_size=0.2).step_size == 0.2
    assert (PGD(threat=LINF).steps, PGD(threat=LINF).start, PGD(threat=LINF).keep_best) == (10, "uniform", False)
    with pytest.raises(InputError, match=r"step_size was 0\.0;"):
        PGD(threat=LINF, step_size=0.0)
    with pytest.raises(InputError, match=r"step_size was 0\.21, larger than eps 0\.2;"):
        PGD(threat=LINF, step_size=0.21)
    with pytest.raises(InputError, match="uniform, near, clean"):
        PGD(threat=LINF, start="middle")


@pytest.mark.parametrize(("start", "size"), [("near", 0.001), ("uniform", 0.2 / math.sqrt(3)), ("clean", 0.0)])
def test_where_an_attack_starts(start, size):
    images, seen = torch.full((50, 1, 8, 8), 0.5), []
    attack = PGD(threat=LINF, steps=1, start=start)
    with seeded(3):
        attack(lambda x: seen.append(x.detach() - images) or x.flatten(1).sum(1), images)
    assert float(seen[0].square().mean().sqrt()) == pytest.approx(size, rel=0.03)
    assert abs(float(seen[0].mean())) <= 0.1 * size


def test_an_attack_runs_where_gradients_are_off():
    with torch.no_grad():
        assert PGD(threat=LINF, steps=2, start="clean")(lambda x: x[:, 0, 0, 0], pixels(0.5)).item() == pytest.approx(
            0.6
        )


def test_points_of_an_l2_ball_are_uniform_in_it():
    """In d dimensions (length / eps) ** d is uniform, and no direction is preferred."""
    images = torch.full((4000, 1, 1, 3), 0.5, dtype=torch.float64)
    with seeded(1):
        delta = (uniform_start(images, L2) - images).flatten(1)
    share = (delta.norm(dim=1) / 0.2) ** 3
    assert torch.allclose(share.sort().values, torch.linspace(0, 1, 4000, dtype=torch.float64), atol=0.03)
    assert torch.allclose((delta.T @ delta) / 4000, torch.eye(3, dtype=torch.float64) * 0.2**2 / 5, atol=4e-4)
    assert bool((delta.mean(0).abs() < 0.01).all())


def test_points_of_an_linf_ball_are_uniform_in_it():
    with seeded(1):
        delta = (uniform_start(torch.full((4000, 1, 1, 1), 0.5), LINF) - 0.5).flatten()
    assert torch.allclose(delta.sort().values, torch.linspace(-0.2, 0.2, 4000), atol=0.01)


@pytest.mark.parametrize("threat", [LINF, L2], ids=str)
def test_a_start_is_clipped_to_the_pixels(threat):
    with seeded(2):
        found = uniform_start(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).expand(200, 1, 1, 2), threat)
    assert (found.amin(), found.amax()) == (0, 1)
    assert 0.3 < float((found == 0).sum() / 200) < 0.7


def test_projection_by_hand():
    images = torch.tensor([0.5, 0.5]).view(1, 1, 1, 2)
    far = torch.tensor([0.8, 0.1]).view(1, 1, 1, 2)
    assert project(far, images, LINF).flatten().tolist() == pytest.approx([0.7, 0.3])
    assert project(far, images, L2).flatten().tolist() == pytest.approx([0.5 + 0.2 * 0.6, 0.5 - 0.2 * 0.8])
    corner = torch.tensor([0.05, 0.95]).view(1, 1, 1, 2)
    assert project(corner + torch.tensor([-1.0, 1.0]), corner, LINF).flatten().tolist() == [0.0, 1.0]
    assert torch.equal(project(images, images, L2), images)


def test_steps_by_hand():
    direction = torch.tensor([[3.0, -4.0], [0.0, 0.0]]).view(2, 1, 1, 2)
    assert unit(direction, LINF).flatten(1).tolist() == [[1, -1], [0, 0]]
    assert unit(direction, L2).flatten().tolist() == pytest.approx([0.6, -0.8, 0, 0])
    assert steepest(direction, L2).flatten().tolist() == pytest.approx([0.12, -0.16, 0, 0])
    assert steepest(direction, LINF).flatten().tolist() == pytest.approx([0.2, -0.2, 0, 0])
