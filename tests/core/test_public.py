"""The public names, and what importing them costs."""

from __future__ import annotations

import subprocess
import sys

import kdiga

PUBLIC = {
    "Comparison",
    "DataSet",
    "DivergedError",
    "Distiller",
    "Evaluation",
    "Exact",
    "FiniteDifference",
    "ImageSet",
    "InputError",
    "KdigaError",
    "KdigaWarning",
    "NamedOutput",
    "PGD",
    "ThreatModel",
    "TrainingResult",
    "TrainingSettings",
    "align",
    "available_data",
    "available_methods",
    "available_models",
    "certify",
    "compare",
    "distill",
    "evaluate",
    "explain",
    "fast_double_backward",
    "input_gradient",
    "load_data",
    "load_model",
    "save_model",
    "suitable",
    "write_report",
}


def test_public_names_are_these():
    assert set(kdiga.__all__) == PUBLIC
    for name in kdiga.__all__:
        assert getattr(kdiga, name).__name__ == name


def test_the_class_of_each_method_is_public():
    code = "import kdiga; print(kdiga.methods.Tangent(gap_weight=3).gap_weight, hasattr(kdiga.methods, 'Nothing'))"
    finished = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert finished.stdout == "3 False\n"
    for method in kdiga.available_methods().values():
        assert getattr(kdiga.methods, method.__name__) is method


def test_import_is_light_and_silent():
    """No torch for ``kdiga --help`` and the report; nothing printed, no random state touched."""
    code = "import kdiga, kdiga.report, kdiga.cli, sys; sys.exit('torch' in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")


def test_training_and_evaluation_load_no_package_that_few_runs_need():
    slow = {"timm", "torchvision", "torch._dynamo", "scipy.stats", "matplotlib", "sklearn"}
    code = f"import sys, kdiga.workflows.train, kdiga.workflows.evaluate; print({slow} & sys.modules.keys())"
    finished = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert finished.stdout == "set()\n"
