"""A page in a headless Chromium: what it shows, measured by a script that the test adds to a copy of it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Every drawing must be seen, nothing may be wider than the window, and letters must be readable as shown.
MEASURE = """
<script>
addEventListener("load", () => {
  const box = one => { const r = one.getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; };
  const all = query => [...document.querySelectorAll(query)];
  const scrolls = one => one.closest(".scroll");
  const lightness = color => { const [r, g, b] = color.match(/[\\d.]+/g).map(Number); return (r + g + b) / 765; };
  const ink = one => lightness(getComputedStyle(one).fill);
  parent.document.documentElement.dataset.measured = JSON.stringify({
    width: innerWidth, scrollWidth: document.documentElement.scrollWidth,
    drawings: all(".drawing svg").map(box), images: all("img").map(one => [...box(one), one.naturalWidth]),
    letters: all(".drawing text").map(one => {
      const svg = one.ownerSVGElement, scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
      return parseFloat(getComputedStyle(one).fontSize) * scale;
    }),
    sizes: all("p, li, td, th, code, figcaption").map(one => parseFloat(getComputedStyle(one).fontSize)),
    outside: all("main *").filter(one => !scrolls(one) && !one.closest("svg")
      && one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML.slice(0, 90)),
    wide: all(".drawing text").filter(one => {
      const own = one.getBoundingClientRect(), svg = one.ownerSVGElement.getBoundingClientRect();
      return own.left < svg.left - 3 || own.right > svg.right + 3 || own.bottom > svg.bottom + 3;
    }).map(one => one.textContent),
    page: lightness(getComputedStyle(document.body).backgroundColor),
    card: lightness(getComputedStyle(document.querySelector(".card")).backgroundColor),
    text: lightness(getComputedStyle(document.body).color), inks: all(".drawing text").map(ink),
    fills: all(".drawing path, .drawing use").map(one => getComputedStyle(one).fill),
    strokes: all(".drawing path, .drawing use").map(one => getComputedStyle(one).stroke),
    requests: performance.getEntriesByType("resource").map(one => one.name).filter(name => !name.startsWith("data:")),
    headings: all("h1, h2, h3, h4, h5").map(one => Number(one.tagName[1])),
  });
});
</script>
"""


def _framed(text: str, width: int) -> str:
    """Put a page into a frame: headless windows are never narrower than 500 pixels, but frames may be."""
    return (
        '<!doctype html><html style="color-scheme: light dark"><head><link rel="icon" href="data:,"></head><body>'
        f'<iframe width="{width}" height="800" style="border: 0" srcdoc="{html.escape(text)}"></iframe></body></html>'
    )


def open_page(page: Path, *, width: int = 1200, dark: bool = False) -> dict[str, Any]:
    """Open a page and return what :data:`MEASURE` found, with the console's lines as "console".

    Args:
        page: to be opened from disk; nothing can be fetched from elsewhere.
        width: of the window in pixels.
        dark: whether the reader prefers dark pages.
    """
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "page.html"
        copy.write_text(_framed(page.read_text().replace("</body>", f"{MEASURE}</body>"), width))
        options = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
            f"--window-size={width + 100},900",
            "--enable-logging=stderr",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--virtual-time-budget=2000",
            "--dump-dom",
        ]
        ran = subprocess.run(
            [CHROMIUM, *options, copy.as_uri()], capture_output=True, text=True, timeout=60, check=False
        )
    found = re.search(r'data-measured="([^"]*)"', ran.stdout)
    assert found, ran.stderr[-2000:]
    console = [line for line in ran.stderr.splitlines() if ":CONSOLE" in line]
    return json.loads(html.unescape(found.group(1))) | {"console": console}
