"""Keys on disk stay as they are: a change here makes finished work unknown, or takes other work for it.

A key that has to change is a new one: write it here, and name the change in CHANGELOG.md.
"""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from torch import nn

import kdiga
from kdiga import certification
from kdiga.analysis.explain import explain
from kdiga.analysis.measures import Measurements
from kdiga.analysis.worst_case import Differentiable, WorstCaseSearch
from kdiga.data import ImageSet, augmentation_by_name
from kdiga.evaluation import attack_by_name
from kdiga.evaluation.masking import CHECKS, check_masking
from kdiga.evaluation.stages import AttackSettings
from kdiga.experiments.claims.claims import load_claims
from kdiga.experiments.specification import record_name
from kdiga.export.exported_files import ExportedFile
from kdiga.export.file_attacks import attack_by_queries, transfer_attacks, transfer_to_files
from kdiga.methods import method_by_name
from kdiga.models import Classifier, ModelSpec, available_models, build
from kdiga.runs import work_units
from kdiga.runs.fingerprints import architecture_of, fingerprint_of_images, fingerprint_of_model, fingerprint_of_tensors
from kdiga.runs.work_units import ResultCache, key_hash
from kdiga.teachers.manifest import Manifest
from kdiga.training import TrainingSettings
from kdiga.training.resume import identity_of
from kdiga.training.teacher_sources import conditions
from kdiga.types import ThreatModel

THREAT = ThreatModel("linf", 0.1)
IMAGES, LABELS = torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])  # the model below gets the second one right
MODEL = "90d34990f2ed5db8eca8c95663a0d93d816860e6c82e61b0fd104bf5888484c8"
DATA = "ec099f3551468c9a9ec659420c0448b8e3fbc15a4c6f0f28e70da5154425ba33"
EXAMPLES = "745d5fcc15f11caaf57c9dfcc6c729524dd57bb019e0a1019bcdc53d0a1da058"


@pytest.fixture(scope="module")
def model() -> Classifier:
    """A classifier of grey images whose weights and answers are small whole numbers, the same on every machine."""
    made = build(ModelSpec("cnn-4", 3, 1, 8)).eval()
    with torch.no_grad():
        for tensor in made.state_dict().values():
            tensor.copy_(torch.arange(tensor.numel()).reshape(tensor.shape) % 5 - 2)
    return made


def keys_in(folder):
    """Return the keys of the finished portions in a folder, versions of packages left out, in a fixed order."""
    found = [json.loads(path.read_text())["key"] for path in folder.glob("*.json")]
    for key in found:
        assert key.pop("kdiga")
        key.pop("pyautoattack", None)
        if "versions" in key:
            assert key.pop("versions").keys() == {"kdiga", "torch", "pyautoattack"}
    return sorted(found, key=json.dumps)


def hash_of(content):
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def test_the_name_of_a_portion(monkeypatch):
    monkeypatch.setattr(work_units, "installed_version", lambda package: "1.2.3")
    assert key_hash({"attack": "fgsm", "threat": ("linf", 0.1)}) == "8377f0d45272877bd46a9eb9e00735f0"


def test_fingerprints(model):
    assert fingerprint_of_model(model) == MODEL
    assert fingerprint_of_tensors(IMAGES, LABELS) == EXAMPLES
    assert fingerprint_of_images(ImageSet(IMAGES.byte(), LABELS, ("a", "b"))) == DATA
    assert architecture_of(model) == (
        '{"activation": "", "image_size": 8, "in_channels": 1, "mean": [0.0], "name": "cnn-4", "num_classes": 3, '
        '"std": [1.0]}'
    )
    assert architecture_of(nn.Flatten()) == "Flatten"


def test_a_fingerprint_of_a_wrapped_model_has_no_name_of_a_class(model):
    class Renamed(Differentiable):
        pass

    found = fingerprint_of_model(Differentiable(model))
    assert found == "c24b9051af2ffc026f96dea96549aea3f288c53a3f2e307a33bf2b61ad388b1e"
    assert fingerprint_of_model(Renamed(model)) == found


def test_evaluation(model, tmp_path):
    kdiga.evaluate(model, [(IMAGES, LABELS)], eps=0.1, attacks=["fgsm", "cw-5x2"], seed=3, folder=tmp_path)
    common = {"model": MODEL, "examples": EXAMPLES, "standing": "01", "threat": ["linf", 0.1], "seed": 3}
    twice = {
        "attack": "cw-5x2",
        "stages": [
            {"stage": "gradient", "objective": "cw", "steps": 5, "restart": 0},
            {"stage": "gradient", "objective": "cw", "steps": 5, "restart": 1},
        ],
        **common,
    }
    once = {"attack": "fgsm", "stages": [{"stage": "gradient", "objective": "pgd", "steps": 1, "restart": 0}]}
    assert keys_in(tmp_path) == [twice | {"stage": 0}, twice | {"stage": 1}, twice, once | common]


def test_stages_of_autoattack():
    assert [stage.key for stage in attack_by_name("autoattack", version="rand").stages] == [
        {"stage": "autoattack", "name": "apgd-ce", "version": "rand"},
        {"stage": "autoattack", "name": "apgd-dlr", "version": "rand"},
    ]


def test_checks_for_masked_gradients(model, tmp_path):
    images = IMAGES[:1].expand(20, -1, -1, -1)
    chosen = [check for check in CHECKS if check.name == "saturation"]
    labels = torch.ones(20).long()
    check_masking(model, images, labels, threat=THREAT, seed=3, result_cache=ResultCache(tmp_path), checks=chosen)
    common = {
        "examples": "b9475331a9bf96c8618675ee3442b32a825f1c89adea099fc1b4ff883c7d698b",
        "threat": ["linf", 0.1],
        "seed": 467793317914800907,
        "model": MODEL,
    }
    assert keys_in(tmp_path) == [
        {"masking": "ce-40 eps 0.1", "settings": {"objective": "ce", "steps": 40, "eps": 0.1}, **common},
        {"masking": "saturation", "settings": {}, **common},
        {"masking": "scaled-ce-40 eps 0.1", "settings": {"objective": "scaled-ce", "steps": 40, "eps": 0.1}, **common},
    ]


def test_transfer_to_exported_files(model, tmp_path):
    transfer_to_files(
        model,
        [ExportedFile("onnx", model, "DIGEST", "onnxruntime")],
        IMAGES,
        LABELS,
        attacks=transfer_attacks(["pgd-4"]),
        fingerprint=MODEL,
        settings=AttackSettings(THREAT, 0, 250, ResultCache(tmp_path)),
    )
    assert keys_in(tmp_path) == [
        {
            "transfer": "pgd-4",
            "stages": [{"stage": "gradient", "objective": "pgd", "steps": 4, "restart": 0}],
            "model": MODEL,
            "victims": {"onnx": "DIGEST"},
            "seed": 0,
            "examples": EXAMPLES,
            "threat": ["linf", 0.1],
        }
    ]


def test_attacks_on_exported_files_by_their_logits(model, tmp_path):
    file = ExportedFile("onnx", model, "DIGEST", "onnxruntime")
    settings = AttackSettings(THREAT, 0, 100, ResultCache(tmp_path))
    attack_by_queries(file, IMAGES, LABELS, queries=3, settings=settings)
    assert keys_in(tmp_path) == [
        {
            "attack": "square-3",
            "stages": [{"stage": "square", "queries": 3}],
            "model": "DIGEST",
            "examples": EXAMPLES,
            "standing": "01",
            "threat": ["linf", 0.1],
            "seed": 0,
        }
    ]


def test_certification(model, tmp_path):
    certification.clever(
        model, IMAGES, LABELS, max_radius=0.1, batches=5, batch_size=2, seed=3, folder=tmp_path / "clever"
    )
    assert keys_in(tmp_path / "clever") == [
        {
            "certification": "lipschitz",
            "models": [MODEL],
            "examples": EXAMPLES,
            "start": 0,
            "wanted": [0, 1],
            "sampling": {"norm": "linf", "radius": 0.1, "batches": 5, "batch_size": 2, "seed": 3},
        }
    ]
    certification.smooth(
        model, IMAGES, LABELS, sigma=0.25, samples=20, selection_samples=5, folder=tmp_path / "smoothing"
    )
    assert keys_in(tmp_path / "smoothing") == [
        {
            "certification": "smoothing",
            "model": MODEL,
            "start": 0,
            "noise": {"sigma": 0.25, "samples": 20, "selection_samples": 5, "alpha": 0.001, "seed": 0},
            "examples": EXAMPLES,
        }
    ]
    certification.interval_against(model, model, IMAGES, LABELS, eps=0.1, folder=tmp_path / "interval")
    assert keys_in(tmp_path / "interval") == [
        {
            "certification": "interval",
            "model": MODEL,
            "examples": EXAMPLES,
            "threat": ["linf", 0.1],
            "max_radius": 0.1,
            "halvings": 20,
        },
        {
            "certification": "interval-lipschitz",
            "models": [MODEL, MODEL],
            "examples": EXAMPLES,
            "ball": ["linf", 0.1],
        },
    ]


def test_explanation(model, tmp_path):
    measurements = Measurements(
        IMAGES, LABELS, threat=THREAT, search=WorstCaseSearch(2, 1), seed=3, result_cache=ResultCache(tmp_path)
    )
    explain(measurements, model, {"student": model}, attack="fgsm")
    common = {
        "threat": ["linf", 0.1],
        "seed": 3,
        "search": {"steps": 2, "restarts": 1, "step": 0.1},
        "batch": EXAMPLES,
        "place": 0,
    }
    found = [key for key in keys_in(tmp_path) if "work" in key]
    assert found == [
        {"work": "bounds", "teacher": MODEL, "student": MODEL, **common},
        {"work": "linearity", "model": MODEL, **common},
    ]


def test_the_manifest_of_a_teacher_cache():
    manifest = Manifest(
        teacher="T",
        architecture="A",
        data="D",
        examples=10,
        image_shape=(1, 8, 8),
        num_classes=3,
        seed=0,
        augmentation="Augmentation(pad=1, flip=True)",
        views=2,
        gradient_of="loss",
        precision="fp32",
        dtype="fp16",
        downsample=1,
        shard_examples=4,
        batch_size=5,
        device="cpu",
        version="1.2.3",
    )
    assert manifest.digest() == "e0c0ebf7682ca847"
    assert json.loads(manifest.to_json()) == {
        "teacher": "T",
        "architecture": "A",
        "data": "D",
        "examples": 10,
        "image_shape": [1, 8, 8],
        "num_classes": 3,
        "seed": 0,
        "augmentation": "Augmentation(pad=1, flip=True)",
        "views": 2,
        "gradient_of": "loss",
        "precision": "fp32",
        "dtype": "fp16",
        "downsample": 1,
        "shard_examples": 4,
        "batch_size": 5,
        "device": "cpu",
        "version": "1.2.3",
        "format": 1,
    }


def test_what_a_run_asks_of_a_teacher_cache():
    data = ImageSet(IMAGES.byte(), LABELS, ("a", "b"))
    asked = conditions(data, method_by_name("kdiga").needs, TrainingSettings(augment="crop-flip", seed=3))
    assert asked == {
        "data": DATA,
        "examples": 2,
        "image_shape": (1, 8, 8),
        "num_classes": 2,
        "seed": 3,
        "augmentation": "Augmentation(pad=1, flip=True)",
        "gradient_of": "loss",
        "precision": "fp32",
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("none", "Augmentation(pad=0, flip=False)"),
        ("crop", "Augmentation(pad=4, flip=False)"),
        ("crop-flip", "Augmentation(pad=4, flip=True)"),
        ("resized-crop-flip", "ResizedCrop(size=32)"),
    ],
)
def test_augmentations_in_a_manifest(name, text):
    assert augmentation_by_name(name, 32).key() == text


def test_the_identity_of_a_training_run():
    settings = TrainingSettings(epochs=2, freeze="a.*", accumulate=2, save_every=1.0)
    assert identity_of(method_by_name("kdiga"), THREAT, settings, 2) == {
        "state format": "4",
        "method": "kdiga",
        "method.label_weight": "0.5",
        "method.teacher_weight": "0.5",
        "method.temperature": "1.0",
        "method.gradient_weight": "1.0",
        "method.distance": '"l2"',
        "method.gradient_of": '"loss"',
        "method.random_start": "false",
        "method.ramp": "null",
        "method.convention": '"per-example"',
        "method.align_share": "1.0",
        "method.align_every": "1",
        "threat.norm": "linf",
        "threat.eps": "0.1",
        "training.epochs": "2",
        "training.batch_size": "128",
        "training.optimizer": '"adamw"',
        "training.lr": "0.002",
        "training.weight_decay": "0.0005",
        "training.momentum": "0.9",
        "training.schedule": '"one-cycle"',
        "training.milestones": "[0.5, 0.75]",
        "training.layer_decay": "1.0",
        "training.freeze": '["a.*"]',
        "training.decay_norms_and_biases": "true",
        "training.grad_clip": "0.0",
        "training.ema": "0.0",
        "training.augment": '"none"',
        "training.route": '"auto"',
        "training.probe": "null",
        "training.attack_batch_norm": '"eval"',
        "training.alignment_batch_norm": '"train"',
        "training.sync_batch_norm": "false",
        "training.precision": '"fp32"',
        "training.channels_last": "true",
        "training.compile": "false",
        "training.device": '"auto"',
        "training.seed": "0",
        "training.validation_share": "0.1",
        "training.validation_examples": "1000",
        "training.validation_steps": "10",
        "training.validate_every": "1",
        "training.select": '"robust"',
        "stored views": "2",
    }
    for free in ("accumulate", "save_every", "stop_at_chance"):
        assert f"training.{free}" not in identity_of(method_by_name("kd"), THREAT, settings, None)


def test_the_settings_in_records_of_claims():
    cells = load_claims("claims-cpu").run_specs
    cell = next(cell for cell in cells if cell.after)
    assert record_name(cell) == "kd--resnet4b-to-cnn-8--seed-0"
    assert {step.file: step.asked for step in cell.after} == {
        "explanation.json": {"examples": 60, "steps": 40, "restarts": 2},
        "certificate.json": {
            "examples": 40,
            "batches": 25,
            "batch_size": 12,
            "sigma": 0.12,
            "samples": 500,
            "selection_samples": 100,
            "alpha": 0.001,
        },
    }


def test_the_tensors_of_every_architecture():
    """Their names are in every checkpoint, and in the fingerprint of every model."""
    found = {}
    for name in available_models():
        with torch.device("meta"):
            made = build(ModelSpec(name, 10, 3, 32))
        found[name] = hash_of([[tensor, list(value.shape)] for tensor, value in made.state_dict().items()])
    assert found == {
        "cnn-4": "16f35aa7b8dca2d3",
        "cnn-8": "3b20384ff13cc487",
        "cnn-16": "dc325506a06a45c4",
        "cnn-32": "9dd5d8faa28dcf42",
        "cnn-64": "a3ee1272f98837a7",
        "mobilenet-v2": "555382561e41eadc",
        "mobilenet-v2-050": "6241434ccf9601df",
        "mobilenet-v2-035": "bb93d21398d3f17b",
        "preact-resnet18": "250e271b422daf49",
        "wrn-16-4": "4375385eb296f824",
        "wrn-28-4": "3039b0fa30fe914c",
        "wrn-28-10": "e5ea5bffb71f48a1",
        "wrn-34-10": "c690994b7b1a92ef",
        "wrn-34-20": "614997fb9063c392",
        "resnet8": "4d3e980c25484e5a",
        "resnet14": "66af1626e71aec10",
        "resnet20": "f5b68cde9b2821e9",
        "resnet32": "0b393b7c32748e2a",
        "resnet44": "6066745a5d02502c",
        "resnet56": "5e4d5e7e57403792",
        "resnet110": "baa80c252dad1cd9",
        "resnet10": "e7a6155639c18923",
        "resnet18": "a8f48dc848c14767",
        "resnet34": "f37b07ca380353eb",
        "resnet2b": "bf3786cb03703a39",
        "resnet4b": "a69b99bc3a58441c",
        "conv-wide": "de2fe56272b94913",
        "conv-tiny": "308ed6d0a43c920a",
        "vit-micro": "c4e81dcccc1dea20",
        "vit-tiny": "67852a01af927b8e",
        "vit-small": "a1918aa66a4e95c9",
        "vit-micro-p8": "4d2d70c940247ecd",
        "vit-tiny-p8": "f87052c4228dd228",
        "vit-small-p8": "8114ea68fe930b8b",
        "vit-bn-p16": "e918fbaa957293aa",
    }
