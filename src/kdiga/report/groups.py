"""Models grouped by data set and threat model: each model once, with all its results, and with its teacher."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kdiga.report.model_registry import ModelRegistry
from kdiga.results.attack_names import strongest
from kdiga.results.certificates import CertificateResult
from kdiga.results.evaluations import EvaluationResult, SuitabilityResult
from kdiga.results.explanations import ExplainedModel, ExplanationResult
from kdiga.results.folders import LeftOut, Results
from kdiga.results.runs import RunResult, rounds_among
from kdiga.results.shared import Accuracy, Conditions, FindingRecord, ModelIdentity, short_names

ConditionsKey = tuple[str, str, str]
PLAIN = ("kd", "ce")  # methods that are not meant to transfer robustness
COLOURED = 7  # more lines cannot be distinguished
OLDER = ("best-test.json", "last-test.json")


@dataclass(frozen=True)
class ReportedModel:
    """A model in a group, with all its results."""

    name: str  # short, unique on the page
    place: int | None  # of its colour; -1 for the teacher, None for grey
    identity: ModelIdentity  # what all its results say about it
    run: RunResult | None
    accuracy: Mapping[str, Sequence[Accuracy]]  # by attack, most images first
    evaluations: Sequence[EvaluationResult]  # under the group's conditions
    at_other_eps: Sequence[EvaluationResult]  # on the same data and norm
    certificates: Sequence[CertificateResult]  # under the group's conditions
    explained: ExplainedModel | None  # its part of an explanation
    findings: Sequence[FindingRecord]
    taught_by: str | None = None  # name of its teacher

    @property
    def method(self) -> str:
        """Training method; "" if unknown."""
        return self.run.method if self.run else ""

    @property
    def parameters(self) -> int | None:
        """Number of parameters; None if unknown."""
        return self.identity.parameters or (self.run.parameters if self.run else None)

    @property
    def failed_checks(self) -> list[str]:
        """Names of the checks that its numbers failed."""
        return [finding.name for finding in self.findings if finding.verdict == "failed"]

    def under(self, attack: str | None) -> Accuracy | None:
        """Return its accuracy under an attack, on most images."""
        found = self.accuracy.get(attack or "", ())
        return found[0] if found else None


@dataclass(frozen=True)
class ModelGroup:
    """Models measured under the same conditions."""

    conditions: Conditions
    teachers: Sequence[ReportedModel]  # models with students in the group
    teacher: ReportedModel | None  # of most students
    students: Sequence[ReportedModel]  # all other models, most robust first
    attack: str | None  # that robust accuracy is measured by; None without any
    explanations: Sequence[ExplanationResult]
    suitabilities: Sequence[SuitabilityResult]

    @property
    def members(self) -> list[ReportedModel]:
        """Teachers, then students."""
        return [*self.teachers, *self.students]

    def named(self, name: str | None) -> ReportedModel | None:
        """Return the member of that name."""
        return next((member for member in self.members if member.name == name), None)

    def teacher_of(self, student: ReportedModel) -> ReportedModel | None:
        """Return the student's teacher, or that of most students."""
        return self.named(student.taught_by) or self.teacher


def group_models(results: Results) -> tuple[list[ModelGroup], list[LeftOut]]:
    """Return the groups, most models first, and remarks on results that do not fit together."""
    hidden = _runs_in_studies(results)
    evaluations = [
        found for found in results.evaluations if not (found.path.name in OLDER and _weights(found) in hidden)
    ]
    index = _ModelIndex(replace(results, evaluations=evaluations), hidden)
    groups = [index.group(key) for key in sorted(index.models)]
    remarks = [
        LeftOut(folder, f"its results are of different {which} weights, so those are shown as models of their own")
        for folder, which in sorted(index.registry.conflicting, key=str)
    ]
    return sorted(groups, key=lambda group: (-len(group.members), group.conditions.key)), remarks


class _ModelIndex:
    """Results by model and conditions, and each model's name."""

    def __init__(self, results: Results, hidden: set[tuple[Path, str]]) -> None:
        self.results, self.rounds = results, rounds_among(results.runs)
        identities = [
            ModelIdentity(
                str(run.folder), which, run.architecture, run.parameters, run.fingerprint(which), folder=run.folder
            )
            for run in sorted(results.runs, key=self._is_round)  # a round may have the weights of another run
            for which in ("best", "last")
            if which == "best" or run.fingerprint(which)
        ]
        judged = list(_judged(results))
        identities += [identity for identity, _ in judged]
        self.registry = ModelRegistry(identities, results.runs)
        self.identities: dict[Hashable, list[ModelIdentity]] = defaultdict(list)
        for identity in identities:
            self.identities[self.registry.model(identity)].append(identity)
        self.models: dict[ConditionsKey, dict[Hashable, None]] = defaultdict(dict)
        self.conditions: dict[ConditionsKey, Conditions] = {}
        for identity, conditions in judged:
            self.models[conditions.key][self.registry.model(identity)] = None
            self.conditions.setdefault(conditions.key, conditions)
        known = {model for models in self.models.values() for model in models}
        for run in results.runs:
            model = self.registry.model_of_run(run.folder)
            if model not in known and (run.folder.resolve(), "best") not in hidden:
                self.models[run.conditions.key][model] = None
                self.conditions.setdefault(run.conditions.key, run.conditions)
        self.names = self._names()

    def _names(self) -> dict[Hashable, str]:
        models = list(dict.fromkeys(model for found in self.models.values() for model in found))
        merged = [self.merged(model) for model in models]
        paths = [str(one.folder or one.model or "model") for one in merged]
        names = short_names(paths, [" (last)" if one.which == "last" else "" for one in merged])
        counts = Counter(one.name for one in merged)
        chosen = [
            one.name if one.name and counts[one.name] == 1 else short for one, short in zip(merged, names, strict=True)
        ]
        return dict(zip(models, chosen if len(set(chosen)) == len(chosen) else names, strict=True))

    def merged(self, model: Hashable) -> ModelIdentity:
        """Return what all results say about a model; of several, the first that says it."""
        found = self.identities[model]
        first = {
            name: next((value for one in found if (value := getattr(one, name))), getattr(found[0], name))
            for name in ("which", "architecture", "parameters", "fingerprint", "folder", "name")
        }
        return ModelIdentity(found[0].model, **first)

    def _run(self, model: Hashable) -> RunResult | None:
        return next((run for one in self.identities[model] if (run := self.registry.run_of(one))), None)

    def _is_round(self, run: RunResult | None) -> bool:
        return run is not None and run.folder.resolve() in self.rounds

    def _located(self, name: str | None) -> Hashable | None:
        folder = self.registry.locate(name) if name else None
        return None if folder is None else self.registry.model_of_run(folder)

    def _teacher_of(self, model: Hashable, explanations: Iterable[ExplanationResult]) -> Hashable | None:
        """Return the model that taught another, as an explanation, a certificate or its recipe says."""
        for explanation in explanations:
            teachers = [one for one in explanation.models if one.is_teacher]
            students = {self.registry.model(one.identity) for one in explanation.models if not one.is_teacher}
            if teachers and model in students:
                return self.registry.model(teachers[0].identity)
        for certificate in self.results.certificates:
            teacher = certificate.against.teacher
            if teacher and self.registry.model(certificate.identity) == model:
                return self.registry.model(teacher.identity)
        run = self._run(model)
        return self._located(run.teacher) if run else None

    def group(self, key: ConditionsKey) -> ModelGroup:
        """Return the group of some conditions."""
        explanations = [found for found in self.results.explanations if found.conditions.key == key]
        models = list(self.models[key])
        teachers = {model: self._teacher_of(model, explanations) for model in models}
        votes = Counter(teachers[one] for one in models if teachers[one] and not self._is_round(self._run(one)))
        members = {model: self._member(model, key, explanations) for model in models}
        for model, teacher in teachers.items():
            if teacher is not None:
                name = self.names.get(teacher) or self.merged(teacher).model
                members[model] = replace(members[model], taught_by=name)
        seconds = {self._located(run.second_teacher) for model in models if (run := self._run(model))}
        main = next((members[model].name for model, _ in votes.most_common() if model in members), None)
        taught = [members[model] for model in models if model in votes or model in seconds]
        students = [members[model] for model in models if not (model in votes or model in seconds)]
        attack = _attack(next((one for one in taught if one.name == main), None), students)
        students.sort(key=lambda one: (-(found.value if (found := one.under(attack)) else -1), one.name))
        taught.sort(key=lambda one: (one.name != main, one.name))
        places = _places(students)
        shown = [replace(one, place=-1 if one.name == main else None) for one in taught]
        return ModelGroup(
            conditions=self.conditions[key],
            teachers=shown,
            teacher=shown[0] if main and shown else None,
            students=[replace(one, place=places.get(one.name)) for one in students],
            attack=attack,
            explanations=explanations,
            suitabilities=[found for found in self.results.suitabilities if found.conditions.key == key],
        )

    def _member(self, model: Hashable, key: ConditionsKey, explanations: Sequence[ExplanationResult]) -> ReportedModel:
        registry, results = self.registry, self.results
        own = [found for found in results.evaluations if registry.model(found.identity) == model]
        here = [found for found in own if found.conditions.key == key]
        explained = [
            (one, explanation)
            for explanation in explanations
            for one in explanation.models
            if registry.model(one.identity) == model
        ]
        accuracy: dict[str, list[Accuracy]] = defaultdict(list)
        for found in here:
            for attack, measured in found.measured.items():
                accuracy[attack].append(measured)
        for one, explanation in explained:
            _add_explained(accuracy, one, explanation)
        for measured in accuracy.values():
            measured.sort(key=lambda found: (-found.images, found.correct is None, str(found.origin.path)))
        findings = {(one.name, one.verdict, one.message): one for found in here for one in found.open_findings}
        return ReportedModel(
            name=self.names[model],
            place=None,
            identity=self.merged(model),
            run=self._run(model),
            accuracy=dict(accuracy),
            evaluations=here,
            at_other_eps=[one for one in own if one.conditions.key[:2] == key[:2] and one.conditions.key != key],
            certificates=[
                one
                for one in results.certificates
                if one.conditions.key == key and registry.model(one.identity) == model
            ],
            explained=explained[0][0] if explained else None,
            findings=list(findings.values()),
        )


def _places(students: Sequence[ReportedModel]) -> dict[str, int]:
    """Give colours to the most robust students and to the most robust plain one."""
    shown = list(students[:COLOURED])
    plain = next((member for member in students if member.method in PLAIN), None)
    if plain and plain not in shown:
        shown[-1] = plain
    return {member.name: place for place, member in enumerate(shown)}


def _add_explained(accuracy: dict[str, list[Accuracy]], one: ExplainedModel, explanation: ExplanationResult) -> None:
    """Add the accuracies of an explanation."""
    if not explanation.examples:
        return
    if one.clean_accuracy is not None:
        accuracy["clean"].append(explanation.accuracy_of(one.clean_accuracy, None, one.correct.get("clean")))
    if (robust := one.robust) and robust.attack:
        measured = explanation.accuracy_of(robust.accuracy, robust.interval_95, one.correct.get(robust.attack))
        accuracy[robust.attack].append(measured)


def _attack(teacher: ReportedModel | None, students: Sequence[ReportedModel]) -> str | None:
    """Return the strongest attack that teacher and students share; without one, the strongest of most models."""
    counts = Counter(attack for one in students for attack in one.accuracy)
    if teacher and (found := strongest(set(teacher.accuracy) & set(counts))):
        return found
    if not counts and teacher:
        counts = Counter(list(teacher.accuracy))
    most = max((count for attack, count in counts.items() if attack != "clean"), default=0)
    return strongest(attack for attack, count in counts.items() if count == most)


def _judged(results: Results) -> Iterable[tuple[ModelIdentity, Conditions]]:
    for found in (*results.evaluations, *results.suitabilities):
        yield found.identity, found.conditions
    for certificate in results.certificates:
        yield certificate.identity, certificate.conditions
        if certificate.against.teacher is not None:
            yield certificate.against.teacher.identity, certificate.conditions
    for explanation in results.explanations:
        for one in explanation.models:
            yield one.identity, explanation.conditions


def _runs_in_studies(results: Results) -> set[tuple[Path, str]]:
    """Return the weights of a study's runs but the best ones of the first seed: its own table has them all."""
    found: set[tuple[Path, str]] = set()
    for study in results.studies:
        for _, entry in study.entries:
            for row, run in enumerate(entry.runs):
                folder = (study.path.parent / run.folder).resolve()
                found.update((folder, which) for which in ("best", "last") if row or which == "last")
    return found


def _weights(found: EvaluationResult) -> tuple[Path, str] | None:
    folder = found.identity.folder
    return None if folder is None else (folder.resolve(), found.identity.which or "best")
