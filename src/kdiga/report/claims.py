"""The page with the verdict on each claim, from ``claims.json`` alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from kdiga.io.atomic_write import write_atomically
from kdiga.io.markdown import one_line, safe
from kdiga.report.charts import drawing, write_png
from kdiga.report.claims_pictures import PICTURES
from kdiga.report.claims_tables import TABLES, coefficient_rows, epoch_rows, model_rows, without_seed
from kdiga.report.tables import NOTHING, listed, markdown_table, some_names, when_and_where
from kdiga.results.attack_names import attack_name, eps_text
from kdiga.results.shared import command_without_folders
from kdiga.results.studies import ClaimsResult, ClaimsRun, CorrelationRecord

CLAIMS = {
    "a": "Plain KD does not preserve the teacher's adversarial robustness.",
    "b": "KDIGA students preserve or exceed the teacher's robustness, across fundamentally different architectures.",
    "c": "Robustness goes into a pre-trained student without loss of clean accuracy.",
    "d": "The certified robustness of a KDIGA student is at least its teacher's.",
    "e": "The local-linearity bounds agree with what is observed.",
}


def write_claims(claims: ClaimsResult, page: Path, images: Path | None = None) -> None:
    """Write the page in Markdown, and its pictures into a folder below the page's; None is the page's own folder."""
    folder = images or page.parent
    folder.mkdir(parents=True, exist_ok=True)
    page.parent.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, str] = {}
    for name, draw in PICTURES.items():
        with drawing():
            figure, path = draw(claims), folder / f"{page.stem}-{name}.png"
            if figure is not None:
                write_png(path, figure, dpi=130, facecolor="white")
                drawn[name] = path.relative_to(page.parent).as_posix()
    write_atomically(page, claims_markdown(claims, drawn))


def claims_markdown(claims: ClaimsResult, pictures: Mapping[str, str]) -> str:
    """Return the page, with the paths of pictures by claim, relative to the page."""
    parts = [f"# The paper's claims, tested: {safe(claims.title)}", "", *about(claims), "", *verdict_table(claims)]
    parts += ["", f"**Claims a to d.** {safe(claims.rules['claim'])}"]
    for name, text in CLAIMS.items():
        parts += ["", f"## {name}. {text}", "", f"**{safe(verdict_line(claims, name))}**"]
        parts += ["", f"Rule: {safe(rule(claims, name))}"]
        if name in pictures:
            parts += ["", f"![Claim {name}]({pictures[name]})"]
        parts += ["", *TABLES[name](claims)]
    if "epochs" in pictures:
        parts += ["", "## Robustness by epoch", "", f"![Robustness by epoch]({pictures['epochs']})"]
        parts += ["", *epoch_rows(claims)]
    parts += ["", "## What was not tested", "", *(f"- {safe(line)}" for line in untested(claims))]
    parts += ["", "## Models", "", *model_rows(claims)]
    parts += ["", "## Coefficients", "", *coefficient_rows(claims)]
    return "\n".join(parts) + "\n"


def about(claims: ClaimsResult) -> Iterator[str]:
    """Return what was measured, how and where, in lines."""
    data, threat = claims.data, claims.threat
    attacks = ", ".join(f"{attack_name(name)} {count:,}" for name, count in claims.attacks.items())
    yield f"    {one_line(command_without_folders(claims.command))}"
    yield ""
    yield (
        f"{claims.done} of {claims.total} runs are finished. {safe(data.name)}, {data.training_images:,} "
        f"training images, {safe(threat.norm)} eps {eps_text(threat.eps)}; seeds {', '.join(map(str, claims.seeds))}; "
        f"test images: {safe(attacks)}. {safe(when_and_where(claims.runs))}"
    )
    yield ""
    yield (
        "The verdicts follow from rules that were fixed before the runs (docs/claims.md). Intervals are 95 %; those of "
        "accuracies are paired over the same images and cover images and seeds. Coefficients and epochs were chosen on "
        f"validation images. A claim's verdict is the one for {safe(claims.judged[0])}, the paper's own method."
    )


def verdict_table(claims: ClaimsResult) -> list[str]:
    """Return the verdicts, a line a claim, a column a judged method."""
    first, *others = claims.judged
    rows: list[list[str]] = []
    for name, text in CLAIMS.items():
        claim = claims.claims[name]
        verdicts = [NOTHING if name == "a" or not claim.rows else claim.verdicts[label] for label in others]
        rows.append([f"{name}. {text}", f"**{claim.verdict if claim.rows else 'not tested'}**", *verdicts])
    return [
        *markdown_table(["claim", first, *others], rows),
        "",
        f"Claim a is about KD alone. For claim e the column {safe(first)} covers the students of all methods, the "
        "other columns those of one method.",
    ]


def verdict_line(claims: ClaimsResult, name: str) -> str:
    """Return a claim's verdict with its count of cases, or its rank correlations, in a sentence."""
    claim = claims.claims[name]
    if not claim.rows:
        return "Not tested."
    if name == "e":
        found = claim.rankings["all"]
        words = [_ranking(bound, found[bound]) for bound in ("student bound", "transfer bound")]
        return f"{claim.verdict.capitalize()}: {'; '.join(words)}."
    label = claim.methods[0]
    counts = claim.counts[label]
    words = ", ".join(f"{count} {word}" for word, count in counts.items())
    case = {"d": "case", "c": "pre-trained student"}.get(name, "pair")
    cases = f"{sum(counts.values())} {case}{'s' * (sum(counts.values()) != 1)}"
    each = " (a case is a pair and a kind of radius)" if name == "d" else ""
    return f"{claim.verdict.capitalize()} for {label}. {cases}: {words}{each}."


def _ranking(name: str, found: CorrelationRecord) -> str:
    if found.spearman is None:
        return f"{name}: too few students"
    interval = found.interval_95
    words = "undefined" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"
    correlation = f"rank correlation of the {name} with AutoAttack {found.spearman:.2f} ({words})"
    return f"{correlation}, {found.students} students"


def rule(claims: ClaimsResult, name: str) -> str:
    """Return a claim's rule in words, with its numbers."""
    rules = claims.rules
    least, covered = f"{100 * rules['kept']:g} %", f"{100 * rules['covered']:g} %"
    gained, lost, ranked = (f"{rules[key]:g}" for key in ("gained", "lost", "ranked"))
    words = {
        "a": f"a pair supports the claim if the interval of (KD student's robust accuracy - {least} of the teacher's) "
        "is below 0, and contradicts it if the interval is at or above 0.",
        "b": f"a pair supports the claim if the interval of (student's robust accuracy - {least} of the teacher's) is "
        "at or above 0, and contradicts it if the interval is below 0.",
        "c": f"a student supports the claim if its robust accuracy rises by at least {gained} points and its clean "
        f"accuracy falls by at most {lost}, over the whole of both intervals. It contradicts the claim if one of the "
        "two intervals is wholly on the other side.",
        "d": "a case supports the claim if the student's radius is at least the teacher's on at least "
        f"{covered} of the images that both get right, over the whole interval of this share. It contradicts the claim "
        "if the interval is below that.",
        "e": "the claim is supported if the interval of the rank correlation with AutoAttack, over students and "
        f"images, is at or above {ranked} for both bounds, and contradicted if it is below for one of them. How tight "
        "the bounds are does not count.",
    }
    return words[name]


def _by_kind(runs: Iterable[ClaimsRun]) -> list[str]:
    """Return for each method, teachers and starts the models of some runs, with their seeds."""
    seeds: dict[str, list[str]] = {}
    for run in runs:
        seeds.setdefault(without_seed(run.folder), []).append(str(run.seed))
    kinds: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for model, several in seeds.items():
        kind, _, name = model.partition("/")
        kinds.setdefault(kind, {}).setdefault(tuple(several), []).append(name)
    groups = {
        kind: [
            f"{listed(names)} (seed{'s' * (len(several) > 1)} {listed(several)})" for several, names in found.items()
        ]
        for kind, found in kinds.items()
    }
    return [f"{kind}: {', '.join(words)}" for kind, words in groups.items()]


def untested(claims: ClaimsResult) -> Iterator[str]:
    """Return what was not tested, although a reader may think so."""
    missing = [run for run in claims.runs if run.status in ("open", "failed")]
    if missing:
        has = "run has" if len(missing) == 1 else "runs have"
        yield f"{len(missing)} {has} no result yet. {'; '.join(_by_kind(missing))}."
    diverged = [run.folder for run in claims.runs if run.status == "diverged"]
    if diverged:
        yield f"{len(diverged)} runs diverged and count as wrong on every image: {some_names(diverged, 12)}."
    pairs = [f"{pair.teacher} to {pair.student}" for pair in claims.pairs if not pair.pretrained]
    yield f"Pairs other than {', '.join(pairs)}; data other than {claims.data.name}."
    threat = claims.threat
    yield f"Threat models other than {threat.norm} eps {eps_text(threat.eps)}, and attacks that use the teacher."
    if not any(pair.pretrained for pair in claims.pairs):
        yield "Pre-trained students: the recipe has none."
    else:
        yield (
            "Longer training of pre-trained students than the recipe's. They may have been pre-trained on the "
            "validation images; a trial then seems to lose less clean accuracy than on new images."
        )
    if len(claims.seeds) == 1:
        yield "Other seeds: with one seed, the intervals cover images only."
    yield f"Other seeds for claims d and e: they use the students of seed {claims.seeds[0]} only."
    certified, explained = claims.certify["examples"], claims.explain["examples"]
    yield f"More than {certified} test images for claim d and {explained} for claim e."
    others = sum(row.robust is None for row in claims.claims["e"].rows)
    if others:
        yield f"The order of {others} students in claim e: their bounds were measured on other images than attacked."
    yield (
        "Exact local Lipschitz constants, which the theorem needs. CLEVER estimates them and can be too low; smoothing "
        "certifies the smoothed model, not the network itself, and no network here was trained under noise."
    )
    yield "All pairs and methods at once: of 95 % intervals one in twenty misses the true value by chance."
