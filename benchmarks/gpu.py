"""What one GPU can show of kdiga within a number of minutes: checks, step times, a robust teacher and its students.

    python benchmarks/gpu.py --minutes 15 --out runs/gpu             # `make gpu`
    python benchmarks/gpu.py --minutes 15 --out runs/gpu --data DIR  # CIFAR-10 from DIR, in parts or as binary batches

In this order, each stage with its share of the time; the same command continues where the last one stopped:

1. doctor: ``kdiga doctor``.
2. tests: ``tests/devices``, the tests that run on the GPU.
3. speed: the table of steps, next to loops written by hand (``benchmarks/speed.py``).
4. plan: ``kdiga profile RECIPE`` measures the steps here, and the epochs that fit are chosen.
5. study: ``kdiga study RECIPE``: a teacher by adversarial training, then students, attacked by AutoAttack.
6. weights: teacher and students in fp16, in files of at most 15 MB (`cat NAME.part* > NAME` joins one in parts).

Writes gpu.json and gpu.md in the folder, and the log of each stage. What did not fit is listed with its estimated time.
It runs on a CPU, too, with another recipe.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unpack_cifar10 import unpack_cifar10

ROOT = Path(__file__).resolve().parent.parent
SHARES = {"doctor": 0.1, "tests": 0.15, "speed": 0.2, "plan": 0.25}  # of the whole time, at most
TEACHER = 0.55  # share of the study's time for the teacher with its attack
MARGIN = 25.0  # seconds at the end for saving and for the weights
BOUND_USED = 0.5  # share of the attacks' bound that is expected: many images do not withstand all stages
MOST_BYTES = 15_000_000  # a file


class OutOfTimeError(Exception):
    """A stage was ended because its time is over; what it saved is used next time."""


class GpuRun:
    """The stages of a run, and what has been found so far.

    Args:
        out: Folder of all results.
        recipe: Study of stages 4 and 5.
        minutes: Time for everything.
        speed: Further arguments of ``benchmarks/speed.py``.
    """

    def __init__(self, out: Path, recipe: Path, minutes: float, speed: Sequence[str]) -> None:
        self.out, self.recipe, self.minutes, self.speed = out, recipe, minutes, speed
        self.begun = time.monotonic()
        self.file = out / "gpu.json"
        self.found: dict[str, Any] = json.loads(self.file.read_text()) if self.file.is_file() else {"stages": {}}

    def left(self) -> float:
        """Return the seconds that are left."""
        return 60 * self.minutes - (time.monotonic() - self.begun)

    def stage(self, name: str, work: Callable[[float], Any]) -> None:
        """Do the work of a stage, unless an earlier command finished it, and record what came out."""
        if self.found["stages"].get(name, {}).get("status") == "done":
            return
        seconds = min(SHARES.get(name, 1.0) * 60 * self.minutes, self.left() - MARGIN)
        say(f"{name}: at most {max(seconds, 0) / 60:.1f} min, {self.left() / 60:.1f} min left in all")
        begun, record = time.monotonic(), dict[str, Any]()
        try:
            if seconds <= 0:
                raise OutOfTimeError
            record |= {"result": work(seconds), "status": "done"}
        except OutOfTimeError:
            record["status"] = "out of time"
        except subprocess.CalledProcessError as error:
            record |= {"status": "failed", "error": f"exit status {error.returncode}; see {name}.log"}
        record["minutes"] = round((time.monotonic() - begun) / 60, 2)
        say(f"{name}: {record['status']} after {record['minutes']} min")
        self.found["stages"][name] = record
        self.write()

    def command(self, name: str, command: Sequence[str], seconds: float) -> None:
        """Run a command with its output in a log, and end it by SIGTERM, which saves its work, after its time."""
        with (self.out / f"{name}.log").open("a") as log:
            log.write(f"$ {shlex.join(command)}\n")
            log.flush()
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)
            try:
                status = process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(MARGIN / 2)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                raise OutOfTimeError from None
        if status:
            raise subprocess.CalledProcessError(status, command)

    def kdiga(self, name: str, *arguments: str, seconds: float) -> None:
        """Run a command of kdiga."""
        self.command(name, [sys.executable, "-m", "kdiga", *arguments], seconds)

    # Stages

    def doctor(self, seconds: float) -> Any:
        """Return what ``kdiga doctor`` finds."""
        self.kdiga("doctor", "doctor", "--json", str(self.out / "doctor.json"), seconds=seconds)
        return {"devices": json.loads((self.out / "doctor.json").read_text())["devices"]}

    def tests(self, seconds: float) -> Any:
        """Run the tests of devices; return pytest's last line, and how many ran on a GPU."""
        self.command("tests", [sys.executable, "-m", "pytest", "-rA", "tests/devices"], seconds)
        lines = (self.out / "tests.log").read_text().splitlines()
        on_gpu = sum(line.startswith("PASSED") and "cuda" in line for line in lines)
        return {"passed on CUDA": on_gpu, "summary": next(line for line in reversed(lines) if " passed" in line)}

    def steps(self, seconds: float) -> Any:
        """Return the table of steps."""
        folder = self.out / "speed"
        limit = str(round(0.75 * seconds / 60, 2))  # building the variants of a student takes its time, too
        script = [sys.executable, "benchmarks/speed.py", "--out", str(folder), "--minutes", limit, *self.speed]
        self.command("speed", script, seconds)
        return {"table": (folder / "speed.md").read_text()}

    def plan(self, seconds: float) -> Any:
        """Measure the runs' steps, and choose the epochs of teacher and students."""
        file = self.out / "profile.json"
        self.kdiga("plan", "profile", str(self.recipe), "--steps", "3", "--json", str(file), seconds=seconds)
        return choose_epochs(json.loads(file.read_text()), (self.left() - 2 * MARGIN) / 60)

    def study(self, seconds: float) -> Any:
        """Train and attack until the time is over; return the table."""
        plan = self.found["stages"]["plan"]["result"]
        self.found["stages"].pop("weights", None)
        folder = self.out / "study"
        asked = ["study", str(self.recipe), "--out", str(folder), "--workers", "1"]
        asked += ["--set", f"base.training.epochs={plan['student_epochs']}"]
        for name in plan["teachers"]:
            asked += ["--set", f"teachers.{name}.training.epochs={plan['teacher_epochs']}"]
        stop = str(round((seconds - MARGIN / 2) / 60, 3))
        self.kdiga("study", *asked, "--stop-after", stop, seconds=seconds)
        content = json.loads((folder / "study.json").read_text())
        self.found["study"] = study_rows(content, plan)
        if any(row["status"] == "open" for row in self.found["study"]):
            raise OutOfTimeError
        return {"runs": len(self.found["study"])}

    def weights(self, _: float) -> Any:
        """Write the finished runs' weights in fp16."""
        from safetensors.torch import load_file, save

        written = list[str]()
        for row in self.found["study"]:
            path = self.out / "study" / row["folder"] / "best.safetensors"
            if row["status"] != "done" or not path.is_file():
                continue
            tensors = {name: one.half() if one.is_floating_point() else one for name, one in load_file(path).items()}
            name = row["folder"].replace("/", "-")
            written += write_in_parts(self.out / "weights" / f"{name}.safetensors", save(tensors))
        return {"files": written}

    def write(self) -> None:
        """Write gpu.json and gpu.md."""
        self.file.write_text(json.dumps(self.found, indent=2) + "\n")
        (self.out / "gpu.md").write_text(page(self.found))


def choose_epochs(profile: Mapping[str, Any], minutes: float) -> dict[str, Any]:
    """Return the epochs of teachers and students for a time, from the measurements of ``kdiga profile``.

    The teachers get their share. The students' epochs are those with which all students would fit; where that is less
    than the recipe's half, those with which the first student's methods fit, so that a few students are trained enough.
    Both are at most the recipe's.
    """
    attacks = {row["student"]: BOUND_USED * 60 * row["hours"] / row["models"] for row in profile["attacks"]}
    rows = [
        row
        | {
            "epoch_minutes": 60 * row["hours"] / row["epochs"],
            "attack_minutes": attacks[row["student"]],
            "epochs": row["epochs"] // row["runs"],
        }
        for row in profile["training"]
    ]
    teachers, students = ([row for row in rows if (row["teacher"] is None) == alone] for alone in (True, False))
    teacher_epochs = _fitting(teachers, TEACHER * minutes, fewest=1)
    spent = sum(row["attack_minutes"] + teacher_epochs * row["epoch_minutes"] for row in teachers)
    student_epochs = _fitting(students, minutes - spent, fewest=0)
    if student_epochs < max(row["epochs"] for row in students) / 2:
        first = [row for row in students if row["student"] == students[0]["student"]]
        student_epochs = _fitting(first, minutes - spent, fewest=1)
    expected = {
        row["label"]: row["attack_minutes"] + chosen * row["epoch_minutes"]
        for those, chosen in ((teachers, teacher_epochs), (students, student_epochs))
        for row in those
    }
    return {
        "teachers": [row["label"] for row in teachers],
        "teacher_epochs": teacher_epochs,
        "student_epochs": student_epochs,
        "expected_minutes": expected,
    }


def _fitting(rows: Sequence[Mapping[str, Any]], minutes: float, *, fewest: int) -> int:
    """Return the epochs of all rows that fit with their attacks: at least ``fewest``, at most the recipe's."""
    left = minutes - sum(row["attack_minutes"] for row in rows)
    epochs = int(left / sum(row["epoch_minutes"] for row in rows))
    return max(fewest, min(epochs, max(row["epochs"] for row in rows)))


def study_rows(content: Mapping[str, Any], plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row per run: its accuracies, or that it did not fit and how long it would take."""
    entries = [*content["teachers"], *content["methods"]]
    return [
        {
            "label": entry["label"],
            "folder": run["folder"],
            "status": run["status"],
            "epochs": run["epochs"],
            "accuracy": run["accuracy"].get("best"),
            "minutes": run["minutes"],
            "attack_minutes": run["attack_minutes"],
            "expected_minutes": plan["expected_minutes"].get(entry["label"]),
        }
        for entry in entries
        for run in entry["runs"]
    ]


def page(found: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    stages = found["stages"]
    lines = ["# One GPU", "", found.get("about", ""), "", "| stage | status | minutes |", "|---|---|---|"]
    lines += [
        f"| {name} | {one['status']}{': ' + one['error'] if 'error' in one else ''} | {one['minutes']} |"
        for name, one in stages.items()
    ]
    if "result" in stages.get("tests", {}):
        tests = stages["tests"]["result"]
        lines += ["", f"Tests of devices: {tests['summary']}; {tests['passed on CUDA']} passed on CUDA."]
    if found.get("study"):
        attacks = list(next((row["accuracy"] for row in found["study"] if row["accuracy"]), {}))
        lines += ["", "## Teacher and students", "", f"| run | {' | '.join(attacks)} | epochs | minutes | attack min |"]
        lines += ["|" + "---|" * (len(attacks) + 4)]
        for row in found["study"]:
            if row["accuracy"]:
                scores = " | ".join(f"{100 * row['accuracy'][name]:.1f}" for name in attacks)
                rest = f"{row['epochs']} | {row['minutes']:.1f} | {row['attack_minutes']:.1f}"
            else:
                scores, rest = " | ".join("" for _ in attacks), f"{row['status']} | |"
                if row["expected_minutes"] is not None:
                    rest = f"{row['status']}, about {row['expected_minutes']:.1f} min | |"
            lines.append(f"| {row['label']} | {scores} | {rest} |")
    if "result" in stages.get("speed", {}):
        lines += ["", "## Steps", "", stages["speed"]["result"]["table"]]
    return "\n".join(lines) + "\n"


def write_in_parts(path: Path, content: bytes) -> list[str]:
    """Write bytes to a file, or to files ``NAME.part1`` and so on of at most 15 MB; return their names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [content[at : at + MOST_BYTES] for at in range(0, len(content), MOST_BYTES)]
    names = [path.name] if len(parts) == 1 else [f"{path.name}.part{number + 1}" for number in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        (path.parent / name).write_bytes(part)
    return names


def say(line: str) -> None:
    """Print a line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def main() -> None:
    """Read the command line and run the stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True, help="time for everything")
    parser.add_argument("--out", type=Path, required=True, help="folder of all results")
    parser.add_argument(
        "--recipe", type=Path, default=ROOT / "recipes" / "study-gpu.yaml", help="study of stages 4 and 5"
    )
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10; default: $KDIGA_DATA, or a download")
    parser.add_argument("--speed", default="", help="further arguments of benchmarks/speed.py, as one text")
    asked = parser.parse_args()
    out = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    if asked.data is not None:
        unpack_cifar10(asked.data)
        os.environ["KDIGA_DATA"] = str(asked.data.resolve())
    run = GpuRun(out, asked.recipe.resolve(), asked.minutes, shlex.split(asked.speed))
    run.found["about"] = f"`{shlex.join(['python', *sys.argv])}`, {time.strftime('%Y-%m-%d')}"
    stages = {
        "doctor": run.doctor,
        "tests": run.tests,
        "speed": run.steps,
        "plan": run.plan,
        "study": run.study,
        "weights": run.weights,
    }
    for name, work in stages.items():
        if name in ("study", "weights") and run.found["stages"].get("plan", {}).get("status") != "done":
            break
        run.stage(name, work)
    run.write()
    print((out / "gpu.md").read_text())


if __name__ == "__main__":
    main()
