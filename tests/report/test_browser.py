"""The page as a browser shows it: on a desk, on a phone, in the dark, and without a network."""

from __future__ import annotations

import numpy as np
import pytest

from kdiga.report import write_page
from tests.report.browsing import CHROMIUM, open_page
from tests.report.samples import write_all, write_study

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_page([write_all(tmp_path_factory.mktemp("results"))]).path


@pytest.fixture(scope="module")
def study_page(tmp_path_factory):
    return write_page([write_study(tmp_path_factory.mktemp("study"))]).path


def check_shown(seen, figures):
    assert seen["console"] == []
    assert seen["requests"] == []
    assert len(seen["drawings"]) == figures
    assert all(width > 200 and height > 80 for _, _, width, height in seen["drawings"])
    assert all(width > 30 and height > 30 and natural > 0 for *_, width, height, natural in seen["images"])
    assert seen["scrollWidth"] <= seen["width"]
    assert seen["outside"] == []
    assert seen["wide"] == []


def test_every_figure_is_shown_on_a_desk(page):
    seen = open_page(page)

    check_shown(seen, figures=13)
    assert len(seen["images"]) == 4 * (1 + 4 * 3)
    assert seen["page"] > 0.9
    assert seen["text"] < 0.2
    assert max(seen["inks"]) < 0.3


def test_a_phone_shows_all_and_scrolls_one_way_only(page):
    seen = open_page(page, width=400)

    assert seen["width"] == 400
    check_shown(seen, figures=13)
    assert min(seen["letters"]) >= 10.5
    assert min(seen["sizes"]) >= 11


def test_the_dark_page_is_dark_and_so_are_its_figures(page):
    seen = open_page(page, dark=True)

    check_shown(seen, figures=13)
    assert seen["page"] < 0.15
    assert seen["card"] < 0.2
    assert seen["text"] > 0.8
    assert min(seen["inks"]) > 0.6
    assert not {"rgb(0, 0, 0)", "rgb(255, 255, 255)"} & {*seen["fills"], *seen["strokes"]}


def test_headings_are_in_order(page, study_page):
    for one in (page, study_page):
        steps = np.diff(open_page(one)["headings"])
        assert steps.max() <= 1


def test_a_study_fits_a_phone(study_page):
    seen = open_page(study_page, width=400)

    assert seen["console"] == []
    assert seen["scrollWidth"] <= 400
    assert seen["outside"] == []
    assert all(width > 200 for _, _, width, _ in seen["drawings"])
    assert min(seen["letters"]) >= 10.5
