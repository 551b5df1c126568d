"""The report in a browser: filters, order, keyboard, both widths and both colour schemes."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chromium import PROGRAM, Page
from report_runs import EVIL, Fake, make_run, softmax_of
from subspan.datasets import Dataset
from subspan.report import build_report


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory):
    if PROGRAM is None:
        pytest.skip("Chromium is not installed")
    page = Page(tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


READY = "document.documentElement.dataset.ready === 'yes'"
HELPERS = """
const one = (selector) => document.querySelector(selector);
const lines = () => [...document.querySelectorAll(".rows .line")]
  .filter((line) => line.style.display !== "none")
  .sort((a, b) => a.dataset.index - b.dataset.index);
const rows = () => lines().map((line) => Number(line.dataset.row));
const enter = (selector, value) => new Promise((done) => {
  one(selector).value = value;
  one(selector).dispatchEvent(new Event("input"));
  setTimeout(done, 60);
});
const frame = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
const stops = () => [...document.querySelectorAll(".strip")]
  .map((strip) => [...strip.children].filter((item) => item.tabIndex === 0).length);
const count = () => one("#f-count").textContent;
const opened = () => (one("#detail").open ? one("#d-name").textContent : null);
const activeLine = () => document.getElementById(one("#grid").getAttribute("aria-activedescendant"));
const inView = () => {
  const line = activeLine().getBoundingClientRect(), box = one(".rows").getBoundingClientRect();
  return line.top >= box.top - 1 && line.bottom <= box.bottom + 1;
};
const corner = () => {
  const box = one("#detail .big .t").getBoundingClientRect();
  return [box.left, box.top, box.width];
};
const painted = () => {
  const c = one("canvas");
  return c.getContext("2d").getImageData(0, 0, c.width, c.height).data.some((v) => v > 0);
};
"""


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Clusters, and 3,000 images of 8 x 8 pixels that are brighter the higher the cluster."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 3000)
    return labels, (rng.integers(0, 60, size=(3000, 8, 8)) + 40 * labels[:, None, None]).astype(np.uint8)


@pytest.fixture
def report(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """A report about 3,000 small images in five clusters, with the probabilities."""
    labels, X = pictures()
    n, k = len(X), 5
    names = [f"{EVIL if i == 7 else 'picture'} {i:04d}" for i in range(n)]
    data = Dataset("x", X, names=names)
    history = [{"phase": "p", "L_pos": 1 / (i + 1), "live_clusters": 5} for i in range(9)]
    P = softmax_of(labels, k)
    codes = np.eye(k)[labels] + np.random.default_rng(1).normal(size=(n, k)) / 5
    path = tmp_path / "report.html"
    path.write_text(build_report(make_run(tmp_path, data, labels, k, history), data, Fake(P, codes)))
    return path, labels, P[np.arange(n), labels]


def open_report(page: Page, path: Path, width: int = 1280, dark: bool = False) -> None:
    page.show(width, dark=dark)
    page.open(path, READY)
    page.run(HELPERS)
    page.run("frame()")  # the map is drawn in the first frame


def test_list_filters_and_sorts(page: Page, report) -> None:
    path, labels, own = report
    open_report(page, path)
    assert page.errors == []
    assert [url for url in page.requests if not url.startswith(("data:", "file:"))] == []
    assert page.run("document.title") == "x in 5 clusters"  # and no other from a name

    levels = np.round(own * 65535)
    order = np.lexsort((np.arange(3000), levels))
    assert page.run("rows()")[:10] == order[:10].tolist()  # least sure first
    assert page.run("lines().length") < 40  # of 3,000
    page.run("one('[data-sort=confidence]').click()")
    assert levels[page.run("rows()")[0]] == levels.max()
    page.run("one('[data-sort=name]').click()")
    assert page.run("one('[aria-sort=ascending]').textContent") == "Name"

    page.run("enter('#f-cluster', '3')")
    assert page.run("count()") == f"{(labels == 3).sum()} of 3,000"
    assert set(labels[page.run("rows()")]) == {3}
    page.run("enter('#f-low', '0.9')")
    assert page.run("count()").split()[0] == str(((labels == 3) & (levels / 65535 >= 0.9)).sum())
    page.run("one('#f-clear').click()")
    page.run("enter('#f-name', 'URE 001')")
    assert sorted(page.run("rows()")) == list(range(10, 20))
    page.run("one('[data-filter=\"2\"]').click()")
    assert page.run("count()").split()[0] == str((labels == 2).sum())


@pytest.mark.parametrize("row", [0, 299, 300, 2999])
def test_a_thumbnail_shows_its_sample(page: Page, report, row: int) -> None:
    open_report(page, report[0])
    shown = page.run("[...slots.keys()]")
    row = min(shown, key=lambda other: abs(other - row))
    page.run(f"openDetail({row})")
    left, top, width = page.run("corner()")
    window = Image.open(io.BytesIO(page.picture())).convert("L")
    middles = [(i + 0.5) * width / 8 for i in range(8)]
    found = [[window.getpixel((int(left + x), int(top + y))) for x in middles] for y in middles]
    np.testing.assert_allclose(found, pictures()[1][row], atol=1)


def test_the_keyboard_goes_along_a_strip_and_opens_a_sample(page: Page, report) -> None:
    path, labels, own = report
    open_report(page, path)
    stops = (
        "[...document.querySelectorAll('.strip')].map((s) => [...s.children].filter((b) => b.tabIndex === 0).length)"
    )
    assert set(page.run(stops)) == {1}
    page.run("one('#cluster-1 .strip button').focus()")
    first = page.run("document.activeElement.dataset.row")
    page.press("ArrowRight")
    second = page.run("document.activeElement.dataset.row")
    mine = np.flatnonzero(labels == 1)
    assert [int(first), int(second)] == mine[np.argsort(-own[mine], kind="stable")][:2].tolist()
    page.press("Enter")
    assert page.run("opened()") == f"picture {int(second):04d}"
    page.press("Escape")
    assert page.run("opened()") is None
    page.press("Tab")  # a strip is one stop
    assert page.run("document.activeElement.closest('.strip').ariaLabel").startswith("Most doubtful")


def test_the_keyboard_goes_through_the_list(page: Page, report) -> None:
    path, _, own = report
    open_report(page, path)
    page.run("one('#grid').focus()")
    for key in ("End", "ArrowUp", "ArrowUp", "ArrowDown"):
        page.press(key)
    assert page.run("Number(activeLine().dataset.index)") == 2998
    assert page.run("inView()") is True
    page.press("Home")
    assert page.run("inView()") is True
    page.press("Enter")
    least = int(np.lexsort((np.arange(3000), np.round(own * 65535)))[0])
    assert page.run("opened()").endswith(f" {least:04d}")


def test_the_keyboard_goes_over_the_map_and_hides_clusters(page: Page, report) -> None:
    open_report(page, report[0])
    page.run("one('.plane canvas').focus()")
    page.press("ArrowRight")
    said = page.run("one('#map-say').textContent")
    page.press("ArrowRight")
    assert re.fullmatch(r".* \d{4}, cluster \d, probability [0-9.>]+", said)
    assert page.run("one('#map-say').textContent") != said
    assert page.run("one('.tip').hidden") is False
    page.press("Enter")
    assert page.run("opened()") is not None
    page.press("Escape")
    page.run("one('.chip[data-cluster=\"2\"]').focus()")
    page.press(" ")
    assert page.run("one('.chip[data-cluster=\"2\"]').ariaPressed") == "false"
    page.run("one('[data-all=\"0\"]').click()")
    page.run("frame()")
    assert page.run("painted()") is False
    assert page.errors == []


@pytest.mark.parametrize(("width", "dark", "ground"), [(1280, False, [247, 247, 245]), (390, True, [18, 20, 23])])
def test_nothing_is_wider_than_the_window(page: Page, report, width: int, dark: bool, ground: list[int]) -> None:
    open_report(page, report[0], width, dark)
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)") == ground
    assert page.run("painted()") is True
