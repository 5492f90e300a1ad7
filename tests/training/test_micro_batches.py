"""A batch in micro-batches gives what the whole batch gives, in less memory; averages are what their formula says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import kdiga
from kdiga.distributed.batch_shards import BatchShard, current_shard, on_batch_shard
from kdiga.errors import InputError
from kdiga.gradients.routes import Exact
from kdiga.methods.fast_at import mean_angle
from kdiga.model_state import seeded
from kdiga.training import stepper as stepper_module
from kdiga.training.settings import TrainingSettings
from kdiga.training.step_profile import peak_bytes
from kdiga.training.stepper import Stepper, TrainingTask
from kdiga.types import Batch, ThreatModel
from tests.contracts.test_methods import VARIANTS
from tests.distributed.work import alone, configured
from tests.training.test_averaging import with_batch_norm
from tests.training.test_loop import QUICK, THREAT, small

PARTED = 3


def largest_difference(one, two):
    pairs = [
        (value, other[name])
        for ours, other in zip(one["states"], two["states"], strict=True)
        for name, value in ours.items()
    ]
    return max(float((a - b).abs().max()) / max(float(a.abs().max()), 1e-3) for a, b in pairs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_micro_batches_are_the_batch(variant):
    """In float64, batch norm in eval mode, in two steps: for every method that is not coupled, to 1e-9."""
    if configured(variant).needs.couples_batch:
        with pytest.raises(InputError, match="weighs examples by the batch"):
            alone(variant, "exact", "linf", accumulate=PARTED)
        return
    whole, parts = (alone(variant, "exact", "linf", accumulate=count) for count in (1, PARTED))
    assert largest_difference(whole, parts) < 1e-9


@pytest.mark.parametrize("variant", [name for name in VARIANTS if configured(name).needs.couples_batch])
def test_coupled_methods_would_differ(variant, monkeypatch):
    """So the refusal is not an idle one."""
    if variant in ("gradalign", "gradalign-detached"):
        pytest.skip("is coupled only where a gradient is exactly zero; see the next test")
    monkeypatch.setattr(stepper_module, "_check_micro_batches", lambda *_: None)
    whole, parts = (alone(variant, "exact", "linf", accumulate=count) for count in (1, PARTED))
    assert largest_difference(whole, parts) > 1e-7


def test_angles_are_averaged_over_the_examples_of_all_processes():
    """Of one process all three have an angle, of the other one of three: the mean is over four, not of two means."""
    with seeded(2):
        a, b = torch.randn(2, 6, 1, 2, 2).double()
    a[4:] = 0

    class Both(BatchShard):
        def gather(self, value):
            return torch.stack([value, others.pop(0)])

    others = [mean_parts(a[3:], b[3:])[0], mean_parts(a[3:], b[3:])[1]]
    with on_batch_shard(Both(0, 2, 0, 2)):
        assert torch.isclose(mean_angle(a[:3], b[:3]), mean_angle_of(a[:4], b[:4]))


def mean_parts(a, b):
    angles = 1 - torch.cosine_similarity(a.flatten(1), b.flatten(1))
    has_one = a.flatten(1).any(1)
    return angles[has_one].sum(), has_one.sum()


def mean_angle_of(a, b):
    total, count = mean_parts(a, b)
    return total / count


def test_micro_batches_take_less_memory():
    def peak(accumulate: int) -> int:
        with seeded(1):
            student = nn.Sequential(
                nn.Conv2d(3, 16, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(16, 16, 3),
                nn.SiLU(),
                nn.Flatten(),
                nn.Linear(16 * 14**2, 4),
            )
            batch = Batch(torch.rand(64, 3, 16, 16), torch.arange(64) % 4, torch.arange(64))
        settings = TrainingSettings(batch_size=64, accumulate=accumulate, device="cpu")
        taker = Stepper(TrainingTask(student, [], kdiga.methods.ce.CE(), THREAT), settings, Exact(), steps=9)
        return peak_bytes(lambda: taker.take(batch, 0), torch.device("cpu"))

    assert peak(8) < 0.4 * peak(1)


@pytest.mark.parametrize(("extra", "passes"), [({}, 36), ({"awp": 0.01}, 72), ({"swa": 0.0}, 36 + 18)])
def test_micro_batches_count_as_one_pass(extra, passes, robust, stripes):
    """The number of passes is that of whole batches, in steps and in the statistics of averaged weights."""
    whole, parts = (
        kdiga.distill(
            with_batch_norm(), robust, stripes, method="kd", epochs=2, accumulate=count, threat=THREAT, **QUICK | extra
        ).passes
        for count in (1, 4)
    )
    assert parts == whole
    assert whole["student_forwards"] == passes


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("draw", ["uniform", "normal"])
def test_pieces_draw_what_the_batch_draws(layout, draw):
    whole = torch.empty(12, 3, 5, 5).contiguous(memory_format=layout)
    with seeded(3):
        wanted = [getattr(current_shard(), draw)(whole) for _ in range(2)]
    for place in range(4):
        stream = torch.Generator().manual_seed(0)
        with seeded(3):
            stream.set_state(torch.get_rng_state())
        with on_batch_shard(BatchShard(place, 4, generator=stream)):
            for value in wanted:
                got = getattr(current_shard(), draw)(whole[:3])
                assert torch.equal(got, value[place * 3 : place * 3 + 3])
    assert current_shard() == BatchShard()


def test_draws_of_a_whole_batch_are_those_of_torch():
    like = torch.empty(4, 1, 8, 8)
    with seeded(3):
        uniform, normal = torch.empty_like(like).uniform_(-2, 5), torch.randn_like(like)
    with seeded(3):
        assert torch.equal(uniform, current_shard().uniform(like, -2, 5))
        assert torch.equal(normal, current_shard().normal(like))


@pytest.mark.parametrize(("size", "count", "rows"), [(12, 4, [0, 3, 6, 9]), (9, 3, [0, 3, 6]), (5, 3, [0, 1, 3])])
def test_examples_are_spread(size, count, rows):
    batch = Batch(torch.rand(size, 1, 2, 2), torch.arange(size), torch.arange(size) + 100, view=2)
    some = batch.spread(count)
    assert some.labels.tolist() == rows
    assert some.index.tolist() == [100 + row for row in rows]
    assert torch.equal(some.images, batch.images[rows])
    assert some.view == 2


def test_moving_average_is_its_formula(stripes):
    """Of parameters and batch norm's statistics; it is what is validated, and the best and the last weights."""
    decay, seen = 0.5, []

    def look(done, total):
        seen.append({name: value.clone() for name, value in student.state_dict().items()})

    student = small(1)
    settings = QUICK | {"method": "ce", "epochs": 1, "threat": THREAT}
    result = kdiga.distill(student, None, stripes, ema=decay, on_step=look, **settings)
    average = seen[0]
    for number, weights in enumerate(seen[1:], start=2):
        kept = min(decay, 1 - number ** (-2 / 3))
        average = {
            name: kept * value + (1 - kept) * weights[name] if value.is_floating_point() else weights[name]
            for name, value in average.items()
        }
    for name, value in result.last_state.items():
        assert torch.allclose(value, average[name], atol=1e-6), name
        assert torch.equal(value, result.best_state[name])
    assert any(not torch.equal(value, seen[-1][name]) for name, value in result.last_state.items())
    held = kdiga.data.split(stripes, 0.1, 0)[1]
    report = kdiga.evaluate(student, held.batches(), eps=0.1, attacks=["clean"])
    assert report["clean"] == result.history[-1].clean


def test_without_an_average_the_student_is_kept(stripes):
    seen = {}
    student = small(1)
    options = QUICK | {"method": "ce", "epochs": 1, "threat": ThreatModel("linf", 0.1)}
    result = kdiga.distill(
        student,
        None,
        stripes,
        on_step=lambda done, total: seen.update({name: value.clone() for name, value in student.state_dict().items()}),
        **options,
    )
    assert all(torch.equal(value, seen[name]) for name, value in result.last_state.items())
