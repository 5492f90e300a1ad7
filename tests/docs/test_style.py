"""Rules of our own for the prose of the pages: words, length, and code that fits the window."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_snippets import PAGES, ROOT, fences
from tests.report.browsing import CHROMIUM

# `kdiga claims --page` writes these.
GENERATED = {"claims-cpu.md", "claims-cpu-more-images.md", "claims-cifar10.md"}
FOR_DEVELOPERS = {"CONTRIBUTING.md", "reliability.md"}
BANNED = re.compile(r"\b(told|beside|theirs|whatever|nobody|anyhow|portion|shelf|witness|team|of its own)\b", re.I)
WORDS = 1500  # tables and code left out; the longest pages have more
ALL_WORDS = 20_000  # of the pages for users, README included
LONGER = {"results.md": 2400, "methods.md": 2000}
WIDTHS = (1280, 390)
CLIPPED = """<script>addEventListener("load", () => {
  const cut = [...document.querySelectorAll("pre > code")].filter(one => one.scrollWidth > one.clientWidth + 1);
  parent.postMessage([innerWidth, document.documentElement.scrollWidth, cut.map(one => one.textContent)], "*");
});</script>"""
FRAMES = """<!doctype html><script>
const found = [];
addEventListener("message", event => {
  found.push(event.data);
  document.documentElement.dataset.measured = JSON.stringify(found);
});
</script>"""


def prose(page: Path) -> str:
    """Return the text of a page without code, tables and links' targets."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    text = re.sub(r"^(    |\|).*$", "", text, flags=re.M)
    return re.sub(r"`[^`]*`|\]\([^)]*\)", " ", text)


WRITTEN = [page for page in PAGES if page.name not in GENERATED | {"CONTRIBUTING.md"}]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_words_and_length(page):
    found = [match.group(0) for match in BANNED.finditer(prose(page))]
    assert not found, f"{page.name}: {found}"
    assert len(prose(page).split()) <= LONGER.get(page.name, WORDS)


def test_the_pages_for_users_are_short_together():
    assert sum(len(prose(page).split()) for page in WRITTEN if page.name not in FOR_DEVELOPERS) <= ALL_WORDS


def test_reliability_is_one_short_page():
    assert len((ROOT / "docs/reliability.md").read_text().splitlines()) <= 80


def test_the_glossary_is_short():
    rows = [line for line in (ROOT / "docs/glossary.md").read_text().splitlines() if line.startswith("| ")]
    assert 15 <= len(rows) - 1 <= 25


def test_first_student_shows_what_to_expect():
    assert len(fences(ROOT / "docs/first-student.md", "text")) >= 5


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_no_code_is_cut_in_a_browser(tmp_path):
    """Open every page of the built site in frames of both widths; no block of code may need to be scrolled."""
    assert CHROMIUM is not None
    site = tmp_path / "site"
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    for page in site.rglob("index.html"):
        shutil.copy(page, page.with_name("measured.html"))
        page.with_name("measured.html").write_text(page.read_text().replace("</body>", f"{CLIPPED}</body>"))
    pages = sorted(site.rglob("measured.html"))
    frames = [
        f'<iframe width="{width}" height="600" src="{page.as_uri()}"></iframe>' for page in pages for width in WIDTHS
    ]
    (tmp_path / "frames.html").write_text(FRAMES + "".join(frames))
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    options += [f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=20000", "--dump-dom"]
    opened = [CHROMIUM, *options, (tmp_path / "frames.html").as_uri()]
    ran = subprocess.run(opened, capture_output=True, text=True, timeout=240, check=False)
    found = json.loads(html.unescape(re.search(r'data-measured="([^"]*)"', ran.stdout)[1]))
    assert len(found) == len(frames)
    assert not [one for one in found if one[2]], "code is cut"
    assert all(scrolled <= width + 1 for width, scrolled, _ in found), "a page is wider than its window"
