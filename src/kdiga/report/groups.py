"""Results put in order: which are about the same model, and which were judged alike."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from kdiga.report.chapters import PLAIN, Chapter, ReportedModel
from kdiga.report.identities import Register, short_names
from kdiga.report.strength import strongest
from kdiga.results.evaluations import EvaluationResult
from kdiga.results.explanations import ExplainedModel, ExplanationResult
from kdiga.results.folders import LeftOut, Results
from kdiga.results.runs import RunResult
from kdiga.results.shared import Accuracy, Conditions, ModelIdentity
from kdiga.statistics import clopper_pearson

Key = tuple[str, str, str]
COLOURED = 7  # more lines than that nobody tells apart
OLDER = ("best-test.json", "last-test.json")


def chapters(results: Results) -> tuple[list[Chapter], list[LeftOut]]:
    """Return the chapters, the one with most models first, and remarks on what does not fit together."""
    spare = _spare_cells(results)
    kept = [found for found in results.evaluations if not (found.path.name in OLDER and _in(found, spare))]
    results = replace(results, evaluations=kept)
    register = Register(_identities(results), results.runs)
    shelf = _Shelf(results, register, spare)
    found = [_chapter(key, shelf) for key in sorted(shelf.keys)]
    remarks = [
        LeftOut(place[0], f"its results are of different {place[1]} weights, so those are shown as models of their own")
        for place in sorted(register.torn, key=str)
        if isinstance(place, tuple)
    ]
    return sorted(found, key=lambda chapter: (-len(chapter.members), chapter.conditions.key)), remarks


class _Shelf:
    """Results by model and ground, and each model's name."""

    def __init__(self, results: Results, register: Register, spare: set[tuple[Path, str]]) -> None:
        self.results, self.register = results, register
        self.identities: dict[Hashable, list[ModelIdentity]] = defaultdict(list)
        for identity in _identities(results):
            self.identities[register.model(identity)].append(identity)
        self.models: dict[Key, dict[Hashable, None]] = defaultdict(dict)
        for identity, ground in _judged(results):
            self.models[ground.key][register.model(identity)] = None
        judged = {model for models in self.models.values() for model in models}
        for run in results.runs:
            model = register.model(register.identity_of_run(run.folder))
            if model not in judged and (run.folder.resolve(), "best") not in spare:
                self.models[run.conditions.key][model] = None
        self.names = self._names()

    @property
    def keys(self) -> list[Key]:
        return list(self.models)

    def _names(self) -> dict[Hashable, str]:
        models = list(dict.fromkeys(model for found in self.models.values() for model in found))
        places = [self._place(model) for model in models]
        names = short_names(places)
        given = [next((one.name for one in self.identities[model] if one.name), "") for model in models]
        counts = Counter(given)
        chosen = [own if own and counts[own] == 1 else short for own, short in zip(given, names, strict=True)]
        return dict(zip(models, chosen if len(set(chosen)) == len(chosen) else names, strict=True))

    def _place(self, model: Hashable) -> tuple[str, str | None]:
        merged = self.merged(model)
        return str(merged.folder or merged.model or "model"), merged.which

    def merged(self, model: Hashable) -> ModelIdentity:
        """Return what all results say of a model, the first that says it."""
        found = self.identities[model]

        return ModelIdentity(
            model=found[0].model,
            which=next((one.which for one in found if one.which), None),
            architecture=next((one.architecture for one in found if one.architecture), ""),
            parameters=next((one.parameters for one in found if one.parameters), None),
            fingerprint=next((one.fingerprint for one in found if one.fingerprint), None),
            folder=next((one.folder for one in found if one.folder), None),
            name=next((one.name for one in found if one.name), ""),
        )

    def run(self, model: Hashable) -> RunResult | None:
        return next((run for one in self.identities[model] if (run := self.register.run_of(one))), None)

    def second_teacher_of(self, model: Hashable) -> Hashable | None:
        """Return the model that also taught another, as its recipe says."""
        run = self.run(model)
        folder = self.register.locate(run.second_teacher) if run and run.second_teacher else None
        return None if folder is None else self.register.model(self.register.identity_of_run(folder))

    def teacher_of(self, model: Hashable, explanations: Iterable[ExplanationResult]) -> Hashable | None:
        """Return the model that taught another, as an explanation, a certificate or its recipe says."""
        for explanation in explanations:
            teachers = [one for one in explanation.models if one.is_teacher]
            students = {self.register.model(one.identity) for one in explanation.models if not one.is_teacher}
            if teachers and model in students:
                return self.register.model(teachers[0].identity)
        for certificate in self.results.certificates:
            teacher = certificate.against.teacher
            if teacher and self.register.model(certificate.identity) == model:
                return self.register.model(teacher.identity)
        run = self.run(model)
        folder = self.register.locate(run.teacher) if run and run.teacher else None
        return None if folder is None else self.register.model(self.register.identity_of_run(folder))


def _chapter(key: Key, shelf: _Shelf) -> Chapter:
    results = shelf.results
    explanations = [found for found in results.explanations if found.conditions.key == key]
    models = list(shelf.models[key])
    teachers = {model: shelf.teacher_of(model, explanations) for model in models}
    votes = Counter(teacher for teacher in teachers.values() if teacher is not None)
    members = {model: _member(model, key, shelf, explanations) for model in models}
    for model, teacher in teachers.items():
        if teacher is not None:
            name = shelf.names.get(teacher) or shelf.merged(teacher).model
            members[model] = replace(members[model], taught_by=name)
    seconds = {shelf.second_teacher_of(model) for model in models}
    main = next((members[model].name for model, _ in votes.most_common() if model in members), None)
    taught = [members[model] for model in models if model in votes or model in seconds]
    others = [members[model] for model in models if not (model in votes or model in seconds)]
    teacher = next((member for member in taught if member.name == main), None)
    attack = _attack(teacher, others)
    others.sort(key=lambda member: (-(found.value if (found := member.of(attack)) else -1), member.name))
    taught.sort(key=lambda member: (member.name != main, member.name))
    places = _places(others)
    students = [replace(member, place=places.get(member.name)) for member in others]
    teachers_here = [replace(member, place=-1 if member.name == main else None) for member in taught]
    grounds = [ground for _, ground in _judged(results) if ground.key == key]
    grounds += [run.conditions for run in results.runs if run.conditions.key == key]
    return Chapter(
        conditions=grounds[0],
        teachers=teachers_here,
        teacher=teachers_here[0] if teacher else None,
        students=students,
        attack=attack,
        explanations=explanations,
        suitabilities=[found for found in results.suitabilities if found.conditions.key == key],
        certificates=[found for found in results.certificates if found.conditions.key == key],
    )


def _places(students: Sequence[ReportedModel]) -> dict[str, int]:
    """Give colours to the most robust students and to the most robust plain one, so that figures stay readable."""
    shown = list(students[:COLOURED])
    plain = next((member for member in students if member.method in PLAIN), None)
    if plain and plain not in shown:
        shown[-1] = plain
    return {member.name: place for place, member in enumerate(shown)}


def _member(model: Hashable, key: Key, shelf: _Shelf, explanations: Sequence[ExplanationResult]) -> ReportedModel:
    register, results = shelf.register, shelf.results
    own = [found for found in results.evaluations if register.model(found.identity) == model]
    here = [found for found in own if found.conditions.key == key]
    explained = [
        (one, explanation)
        for explanation in explanations
        for one in explanation.models
        if register.model(one.identity) == model
    ]
    accuracy: dict[str, list[Accuracy]] = defaultdict(list)
    for found in here:
        for attack, measured in found.measured.items():
            accuracy[attack].append(measured)
    for one, explanation in explained:
        _add_explained(accuracy, one, explanation)
    for measured in accuracy.values():
        measured.sort(key=lambda found: (-found.images, found.correct is None, str(found.origin.path)))
    findings = [finding for found in here for finding in found.findings]
    return ReportedModel(
        name=shelf.names[model],
        place=None,
        identity=shelf.merged(model),
        run=shelf.run(model),
        accuracy=dict(accuracy),
        evaluations=here,
        elsewhere=[found for found in own if found.conditions.key[:2] == key[:2] and found.conditions.key != key],
        certificates=[
            c for c in results.certificates if c.conditions.key == key and register.model(c.identity) == model
        ],
        explained=explained[0][0] if explained else None,
        findings=list({(one.name, one.verdict, one.message): one for one in findings}.values()),
    )


def _add_explained(accuracy: dict[str, list[Accuracy]], one: ExplainedModel, explanation: ExplanationResult) -> None:
    """Use the accuracies of an explanation as well."""
    images, conditions, origin = explanation.examples, explanation.conditions, explanation.origin
    if not images:
        return
    given: dict[str, tuple[float | None, list[float] | None]] = {"clean": (one.clean_accuracy, None)}
    if one.robust and one.robust.attack:
        given[one.robust.attack] = one.robust.accuracy, one.robust.interval_95
    for attack, (value, ends) in given.items():
        if value is None:
            continue
        low, high = ends or clopper_pearson(round(value * images), images)
        accuracy[attack].append(Accuracy(value, (low, high), images, one.outcomes(attack), conditions, origin))


def _attack(teacher: ReportedModel | None, students: Sequence[ReportedModel]) -> str | None:
    """Return the strongest attack that teacher and students share; without that, the strongest of most models."""
    shared = set(teacher.accuracy) & {attack for one in students for attack in one.accuracy} if teacher else set[str]()
    if found := strongest(shared):
        return found
    counts = Counter(attack for one in students or [] for attack in one.accuracy)
    if not counts and teacher:
        counts = Counter(teacher.accuracy)
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


def _identities(results: Results) -> Iterable[ModelIdentity]:
    for run in results.runs:
        yield ModelIdentity(str(run.folder), "best", run.architecture, run.parameters, folder=run.folder)
    for identity, _ in _judged(results):
        yield identity


def _spare_cells(results: Results) -> set[tuple[Path, str]]:
    """Return a study's cells but the first seed's best weights: its own table has them all."""
    spare: set[tuple[Path, str]] = set()
    for study in results.studies:
        for _, entry in study.entries:
            for row, run in enumerate(entry.runs):
                place = (study.path.parent / run.folder).resolve()
                spare.update((place, which) for which in ("best", "last") if row or which == "last")
    return spare


def _in(found: EvaluationResult, spare: set[tuple[Path, str]]) -> bool:
    folder = found.identity.folder
    return folder is not None and (folder.resolve(), found.identity.which or "best") in spare
