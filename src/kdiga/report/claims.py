"""The page that says what became of each claim, from ``claims.json`` alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdiga.io.markdown import one_line, safe
from kdiga.report.claims_pictures import PICTURES, to_png
from kdiga.report.claims_tables import TABLES, certified_sizes, coefficient_rows, model_rows, table
from kdiga.report.plots import replace_file
from kdiga.report.study import NOTHING, when_and_where
from kdiga.results.attack_names import attack_name

CLAIMS = {
    "a": "Plain KD does not preserve the teacher's adversarial robustness.",
    "b": "KDIGA students preserve or exceed the teacher's robustness, across fundamentally different architectures.",
    "c": "Robustness goes into a pre-trained student without loss of clean accuracy.",
    "d": "The certified robustness of a KDIGA student is at least its teacher's.",
    "e": "The local-linearity bounds agree with what is observed.",
}
Content = Mapping[str, Any]


def write_claims(content: Content, page: Path, images: Path | None = None) -> None:
    """Write the page and its pictures.

    Args:
        content: of ``claims.json``.
        page: a Markdown file.
        images: folder of the pictures, below the page's own; None is the page's own.
    """
    folder = images or page.parent
    folder.mkdir(parents=True, exist_ok=True)
    page.parent.mkdir(parents=True, exist_ok=True)
    drawn = dict[str, str]()
    for name, draw in PICTURES.items():
        figure = draw(content)
        if figure is not None:
            path = folder / f"{page.stem}-{name}.png"
            replace_file(path, to_png(figure))
            drawn[name] = path.relative_to(page.parent).as_posix()
    replace_file(page, claims_markdown(content, drawn).encode())


def claims_markdown(content: Content, pictures: Mapping[str, str]) -> str:
    """Return the page.

    Args:
        content: of ``claims.json``.
        pictures: by claim, their paths as the page refers to them.
    """
    parts = [
        f"# The paper's claims, tested: {safe(content['title'])}",
        "",
        *about(content),
        "",
        *verdict_table(content),
    ]
    for name, text in CLAIMS.items():
        parts += [
            "",
            f"## {name}. {text}",
            "",
            f"**{safe(verdict_line(content, name))}**",
            "",
            f"Rule: {safe(rule(content, name))}",
        ]
        if name in pictures:
            parts += ["", f"![Claim {name}]({pictures[name]})"]
        parts += ["", *TABLES[name](content)]
    parts += ["", "## What was not tested", "", *(f"- {safe(line)}" for line in untested(content))]
    parts += ["", "## Models", "", *model_rows(content)]
    parts += ["", "## Coefficients", "", *coefficient_rows(content)]
    return "\n".join(parts) + "\n"


def about(content: Content) -> Iterator[str]:
    """Return what was measured, how and where, in lines."""
    data, threat, seeds = content["data"], content["threat"], content["seeds"]
    attacks = ", ".join(f"{attack_name(name)} {count:,}" for name, count in content["attacks"].items())
    yield f"    {one_line(content['command'])}"
    yield ""
    yield (
        f"{content['done']} of {content['total']} runs ended. {safe(data['name'])}, {data['training_images']:,} "
        f"training images, {safe(threat['norm'])} eps {eps_text(threat['eps'])}; seeds {', '.join(map(str, seeds))}; "
        f"test images: {safe(attacks)}. {safe(when_and_where(content['runs']))}"
    )
    yield ""
    yield (
        "Verdicts are computed from the runs by rules that stand in the program and the recipe, and were fixed before "
        "them (docs/claims.md). Intervals are 95 %; those of accuracies are paired over the same images and cover "
        "images and seeds. Coefficients and epochs were chosen on validation images. The verdict on a claim is that on "
        f"{safe(content['judged'][0])}, the paper's own method."
    )


def verdict_table(content: Content) -> list[str]:
    """Return the verdicts, a line a claim, a column a judged method."""
    first, *others = content["judged"]
    rows = list[list[str]]()
    for name, text in CLAIMS.items():
        claim = content["claims"][name]
        beside = [NOTHING if name == "a" or not claim["rows"] else claim["verdicts"][label] for label in others]
        rows.append([f"{name}. {text}", f"**{verdict_of(content, name)}**", *beside])
    return [
        *table(["claim", first, *others], rows),
        "",
        f"Claim a is about KD alone. Under e the column {safe(first)} is all students together, the others a "
        "method's own.",
    ]


def verdict_of(content: Content, name: str) -> str:
    """Return a claim's verdict, or that it was not tested."""
    claim = content["claims"][name]
    return claim["verdict"] if claim["rows"] else "not tested"


def verdict_line(content: Content, name: str) -> str:
    """Return a claim's verdict with its count of cases, or its rank correlations, in a sentence."""
    claim = content["claims"][name]
    if not claim["rows"]:
        return "Not tested."
    if name == "e":
        found = claim["rankings"]["all"]
        told = [_ranking(bound, found[bound]) for bound in ("student bound", "transfer bound")]
        return f"{claim['verdict'].capitalize()}: {'; '.join(told)}."
    label = claim["methods"][0]
    counts: Mapping[str, int] = claim["counts"][label]
    told = ", ".join(f"{count} {word}" for word, count in counts.items())
    cases = {"d": "cases (a pair and a kind of radius)", "c": "pre-trained students"}.get(name, "pairs")
    return f"{claim['verdict'].capitalize()} for {label}: of {sum(counts.values())} {cases} {told}."


def _ranking(name: str, found: Mapping[str, Any]) -> str:
    if found["spearman"] is None:
        return f"{name}: too few students"
    interval = found["interval_95"]
    told = "undefined" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"
    correlation = f"rank correlation of the {name} with AutoAttack {found['spearman']:.2f} ({told})"
    return f"{correlation} over {found['students']} students"


def rule(content: Content, name: str) -> str:
    """Return a claim's rule in words, with its numbers."""
    rules = content["rules"]
    kept, covered = f"{100 * rules['kept']:g} %", f"{100 * rules['covered']:g} %"
    gained, lost, ranked = (f"{rules[key]:g}" for key in ("gained", "lost", "ranked"))
    told = {
        "a": f"a pair supports the claim if the interval of (KD student's robust accuracy - {kept} of the teacher's) "
        "lies below 0, and contradicts it if it lies at or above 0.",
        "b": f"a pair supports the claim if the interval of (student's robust accuracy - {kept} of the teacher's) lies "
        "at or above 0, and contradicts it if it lies below.",
        "c": f"a student supports the claim if its robust accuracy rises by at least {gained} points and its clean "
        f"accuracy falls by at most {lost}, both with their whole intervals, and contradicts it if either interval "
        "lies wholly on the other side.",
        "d": f"a case supports the claim if the student's radius is at least the teacher's on {covered} of the images "
        "that both get right, with the whole interval of that share, and contradicts it if the interval lies below.",
        "e": "supported if the whole interval of the rank correlation with AutoAttack, over students and images, is at "
        f"least {ranked} for both bounds; contradicted if it lies below for one of them. Tightness decides nothing.",
    }
    return told[name] if name == "e" else f"{told[name]} {rules['claim']}"


def untested(content: Content) -> Iterator[str]:
    """Return what a reader might take for tested and is not."""
    missing = [run for run in content["runs"] if run["status"] in ("open", "failed")]
    if missing:
        yield f"{len(missing)} runs have no result yet: {_some([run['folder'] for run in missing])}."
    diverged = [run["folder"] for run in content["runs"] if run["status"] == "diverged"]
    if diverged:
        yield f"{len(diverged)} runs diverged and count as wrong on every image: {_some(diverged)}."
    pairs = [f"{pair['teacher']} to {pair['student']}" for pair in content["pairs"] if not pair["pretrained"]]
    yield f"Other pairs than {', '.join(pairs)}; other data than {content['data']['name']}."
    threat = content["threat"]
    yield f"Other threats than {threat['norm']} eps {eps_text(threat['eps'])}, and attacks that know of the teacher."
    if not any(pair["pretrained"] for pair in content["pairs"]):
        yield "Pre-trained students: the recipe has none."
    else:
        yield (
            "Longer training of pre-trained students than the recipe's, nor whether their clean accuracy on validation "
            "images is that on new ones: they may have been pre-trained on them, and then a trial seems to lose less."
        )
    if len(content["seeds"]) == 1:
        yield "Other seeds: with one, the intervals are over images alone."
    yield f"Claims d and e rest on the students of seed {content['seeds'][0]}; their intervals are not over seeds."
    yield certified_sizes(content)
    yield (
        "The theorem speaks of exact local Lipschitz constants. CLEVER estimates them and can be too low; smoothing "
        "certifies the smoothed model, not the network itself, and no network here was trained under noise."
    )
    yield "Intervals are not corrected for the number of pairs and methods: one in twenty misses by chance."


def eps_text(eps: float) -> str:
    """Return an eps as a person would write it.

    >>> eps_text(8 / 255), eps_text(0.1)
    ('8/255', '0.1')
    """
    steps = eps * 255
    return f"{round(steps)}/255" if abs(steps - round(steps)) < 1e-6 and round(steps) else f"{eps:.4g}"


def _some(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
