"""A stored teacher says what the live one says: bit for bit in fp32 at the same batch size, nearly so otherwise."""

from __future__ import annotations

import pytest
import torch

import kdiga
from kdiga.data import Augmentation, ImageSet, ImageSetFeed
from kdiga.errors import InputError
from kdiga.methods import available_methods, method_by_name
from kdiga.model_state import seeded
from kdiga.teachers import CachedTeacher, signals
from kdiga.teachers.packing import pack, unpack_gradient
from kdiga.types import Batch, TeacherSignal
from kdiga.workflows.cache import largest_error
from tests.teachers.conftest import AUGMENTED, Filler
from tests.training.test_loop import THREAT, StoppedError, small

TINY = 1e-35  # the largest magnitude of a row below which float32 itself has few bits left


def states_equal(one, two):
    return all(torch.equal(value, two[key]) for key, value in one.items())


def batches(filler, batch_size=20, epochs=1, views=2):
    feed = ImageSetFeed(filler.train, batch_size, filler.settings.seed, filler.source().augmentation, views)
    return [batch for epoch in range(epochs) for batch in feed.epoch(epoch)]


@pytest.mark.parametrize(
    ("method", "precision"),
    [("kd", "fp32"), ("kdiga", "fp32"), ("tangent", "fp32"), ("igam", "fp32"), ("kdiga", "bf16")],
)
def test_training_from_a_store_equals_training_from_the_live_teacher(method, precision, robust, stripes, tmp_path):
    settings = AUGMENTED | {"method": method, "epochs": 3, "threat": THREAT, "precision": precision}
    if precision == "bf16":
        settings |= {"route": "finite-difference"}
    live = kdiga.distill(small(), robust, stripes, **settings)
    stored = Filler(robust, stripes, method, precision=precision).fill(tmp_path, views=3)
    student = kdiga.distill(small(), stored, stripes, **settings)
    assert states_equal(live.last_state, student.last_state)
    assert [record.terms for record in live.history] == [record.terms for record in student.history]
    assert student.passes["teacher_forwards"] == 0


@pytest.mark.parametrize("name", ["resnet20", "mobilenet-v2", "vit-micro"])
def test_colour_images_and_batch_norm_in_channels_last(name, tmp_path):
    with seeded(4):
        images = (torch.rand(120, 3, 16, 16) * 255).byte()
        data = ImageSet(images, torch.arange(120) % 4, ("a", "b", "c", "d"))
        teacher = kdiga.load_model(name, num_classes=4, image_size=16)
    filler = Filler(teacher, data)
    stored, live = filler.fill(tmp_path), filler.source().teach
    for batch in batches(filler, epochs=2):
        laid_out = Batch(batch.images.to(memory_format=torch.channels_last), batch.labels, batch.index, batch.view)
        one, two = stored(laid_out), live(batch)
        assert torch.equal(one.logits, two.logits)
        assert torch.equal(one.input_gradient, two.input_gradient)
        assert one.input_gradient.stride() == two.input_gradient.stride()


def test_signals_go_through_pinned_memory(filler, tmp_path, monkeypatch):
    """Copied by ``to_device`` they do not make a step wait for a GPU."""
    stored, batch = filler.fill(tmp_path), batches(filler)[0]
    expected = stored(batch)
    monkeypatch.setattr(signals, "to_device", lambda tensor, device: tensor + 1)
    found = stored(batch)
    assert torch.equal(found.logits, expected.logits + 1)
    assert torch.equal(found.input_gradient, expected.input_gradient + 1)
    assert torch.equal(stored.logits(batch), expected.logits + 1)


def test_another_batch_size_is_equal_to_rounding(filler, tmp_path):
    stored, live = filler.fill(tmp_path, batch_size=7), filler.source().teach
    for batch in batches(filler, batch_size=33):
        assert largest_error(stored(batch).logits, live(batch).logits) < 1e-5
        assert largest_error(stored(batch).input_gradient, live(batch).input_gradient) < 1e-5


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp16", 2**-11), ("int8", 1 / 250)])
def test_stated_tolerances(dtype, tolerance, filler, tmp_path):
    stored, live = filler.fill(tmp_path, dtype=dtype), filler.source().teach
    errors = []
    for batch in batches(filler):
        expected = live(batch).input_gradient
        normal = expected.flatten(1).abs().amax(1) > TINY
        errors.append(largest_error(stored(batch).input_gradient[normal], expected[normal]))
    assert tolerance / 8 < max(errors) <= tolerance
    assert all(torch.equal(stored(batch).logits, live(batch).logits) for batch in batches(filler))


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 0.0), ("fp16", 2**-11), ("int8", 1 / 250)])
def test_rows_of_any_size(dtype, tolerance, filler):
    """A confident teacher's gradients are far below fp16's range; an all-zero row is exact."""
    with seeded(3):
        gradient = torch.randn(90, 1, 8, 8) * torch.logspace(-44, 30, 90)[:, None, None, None]
        gradient[7] = 0
    manifest = filler.manifest(dtype=dtype)
    rows = pack(TeacherSignal(torch.zeros(90, 4), gradient), manifest)
    restored = unpack_gradient(rows, manifest)
    assert torch.equal(restored[7], gradient[7])
    normal = gradient.flatten(1).abs().amax(1) > TINY
    assert int(normal.sum()) > 70
    assert largest_error(restored[normal], gradient[normal]) <= tolerance
    assert bool(restored.isfinite().all())


def test_downsampling_keeps_each_blocks_sum(filler, tmp_path):
    stored, live = filler.fill(tmp_path, downsample=4), filler.source().teach
    batch = batches(filler)[0]
    coarse, fine = stored(batch).input_gradient, live(batch).input_gradient
    assert coarse.shape == fine.shape
    for rows, columns in ((slice(0, 4), slice(0, 4)), (slice(4, 8), slice(0, 4))):
        block = coarse[..., rows, columns]
        assert torch.equal(block.amax((2, 3)), block.amin((2, 3)))
        torch.testing.assert_close(block.sum((2, 3)), fine[..., rows, columns].sum((2, 3)), rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="downsample was 3; it must divide 8 and 8"):
        filler.manifest(downsample=3)


def test_views_are_used_in_turn(filler):
    few, many = (ImageSetFeed(filler.train, 20, 0, Augmentation(1, flip=True), views) for views in (2, None))
    for epoch, view in ((0, 0), (1, 1), (5, 1)):
        batch = next(few.epoch(epoch))
        assert batch.view == view
        assert torch.equal(batch.index, next(many.epoch(epoch)).index), "the order goes on changing"
        images = Augmentation(1, flip=True)(filler.train.images[batch.index], batch.index, seed=0, view=view)
        assert torch.equal(batch.images, images.float() / 255)
    with pytest.raises(InputError, match="views was 0"):
        ImageSetFeed(filler.train, 20, 0, Augmentation(), 0)


def test_more_epochs_than_views(filler, stripes, tmp_path):
    settings = AUGMENTED | {"method": "kdiga", "epochs": 5, "threat": THREAT}
    seen = []

    class Watched(CachedTeacher):
        def __call__(self, batch):
            seen.append(batch.view)
            return super().__call__(batch)

    stored = filler.fill(tmp_path)
    kdiga.distill(small(), Watched(stored.store), stripes, **settings)
    assert seen == [epoch % 2 for epoch in range(5) for _ in range(18)]


def test_a_view_or_an_example_beyond_the_store(filler, tmp_path):
    stored = filler.fill(tmp_path)
    batch = batches(filler)[0]
    for view in (2, -1):
        with pytest.raises(InputError, match=f"view was {view}; .* has views 0 to 1"):
            stored(Batch(batch.images, batch.labels, batch.index, view))
    for index in (torch.tensor([0, 360]), torch.tensor([-1, 0])):
        with pytest.raises(InputError, match=r"examples were in .*has 0 to 359"):
            stored.logits(Batch(batch.images[:2], batch.labels[:2], index))


def test_it_is_not_asked_elsewhere(filler, tmp_path):
    stored = filler.fill(tmp_path)
    assert not stored.answers_queries
    with pytest.raises(InputError, match="queried for images that it does not hold"):
        stored.at(torch.rand(1, 1, 8, 8))


def test_logits_alone_serve_kd_and_not_kdiga(robust, stripes, tmp_path):
    stored = Filler(robust, stripes, "kd").fill(tmp_path, views=1)
    batch = batches(Filler(robust, stripes))[0]
    assert stored(batch).input_gradient is None
    settings = AUGMENTED | {"epochs": 2, "threat": THREAT}
    kdiga.distill(small(), stored, stripes, method="kd", **settings)
    with pytest.raises(InputError, match=r"holds logits only.*gradient_of is None there and 'loss' here.*kdiga cache"):
        kdiga.distill(small(), stored, stripes, method="kdiga", **settings)
    with pytest.raises(InputError, match="holds logits only"):
        CachedTeacher(stored.store, gradient=True)(batch)


def test_gradients_serve_kd_without_being_read(filler, stripes, robust, tmp_path):
    stored = filler.fill(tmp_path)
    settings = AUGMENTED | {"method": "kd", "epochs": 2, "threat": THREAT}
    student = kdiga.distill(small(), stored, stripes, **settings)
    assert states_equal(student.last_state, kdiga.distill(small(), robust, stripes, **settings).last_state)
    batch = batches(filler)[0]
    assert CachedTeacher(stored.store, gradient=False)(batch).input_gradient is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"augment": "crop"}, r"flip=True\)' there and 'Augmentation\(pad=1, flip=False\)' here"),
        ({"precision": "bf16"}, "precision is 'fp32' there and 'bf16' here"),
        ({"validation_share": 0.2}, "examples is 360 there and 320 here"),
        ({"method": kdiga.methods.kdiga.KDIGA(gradient_of="probability")}, "is 'loss' there and 'probability' here"),
    ],
)
def test_a_run_that_asks_for_something_else(changes, message, filler, stripes, tmp_path):
    stored = filler.fill(tmp_path)
    settings = AUGMENTED | {"method": "kdiga", "epochs": 1, "threat": THREAT} | changes
    with pytest.raises(InputError, match=message):
        kdiga.distill(small(), stored, stripes, **settings)


def test_other_images_and_other_classes(filler, stripes, tmp_path):
    stored = filler.fill(tmp_path)
    settings = AUGMENTED | {"method": "kdiga", "epochs": 1, "threat": THREAT}
    images = stripes.images.clone()
    images[3, 0, 0, 0] += 1
    with pytest.raises(InputError, match=r"data is '[0-9a-f]{12}\.\.\. there and '[0-9a-f]{12}\.\.\. here"):
        kdiga.distill(small(), stored, ImageSet(images, stripes.labels, stripes.classes), **settings)
    with pytest.raises(InputError, match="num_classes is 4 there and 5 here"):
        kdiga.distill(small(), stored, ImageSet(stripes.images, stripes.labels, (*stripes.classes, "e")), **settings)
    with pytest.raises(InputError, match="the student has 5 classes and the teacher 4"):
        kdiga.distill(small(classes=5), stored, stripes, **settings)
    loader = [(stripes.images[:20].float() / 255, stripes.labels[:20])]
    with pytest.raises(InputError, match="with a data loader, which augments by itself"):
        kdiga.distill(small(), stored, loader, **settings)


@pytest.mark.parametrize("name", [name for name, one in available_methods().items() if one().needs.teacher_queries])
def test_methods_that_ask_their_teacher(name, filler, robust, stripes, tmp_path):
    stored = filler.fill(tmp_path, views=1)
    with pytest.raises(InputError, match="queries the teacher on perturbed images"):
        kdiga.distill(small(), stored, stripes, method=name, epochs=1, second_teacher=robust, **AUGMENTED)


def test_a_run_is_not_resumed_with_other_views(filler, robust, stripes, tmp_path):
    stored = filler.fill(tmp_path / "store")
    settings = AUGMENTED | {"method": method_by_name("kdiga"), "epochs": 4, "threat": THREAT, "out": tmp_path / "run"}

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        kdiga.distill(small(), stored, stripes, on_step=stop, **settings)
    with pytest.raises(InputError, match="has stored views 2 and this one None"):
        kdiga.distill(small(), robust, stripes, resume=True, **settings)
    resumed = kdiga.distill(small(9), stored, stripes, resume=True, **settings)
    whole = kdiga.distill(small(), stored, stripes, **(settings | {"out": None}))
    assert states_equal(resumed.last_state, whole.last_state)
