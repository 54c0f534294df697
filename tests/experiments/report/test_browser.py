"""The page in a real browser: at the widths of a telephone and a desk, light and dark."""

import itertools
import json
import shutil

import numpy as np
import pytest

webdriver = pytest.importorskip("selenium.webdriver")

from selenium.webdriver.chrome.service import Service

from configs import common
from configs.tables import add_figure, add_scatter, add_table, measured
from experiments.report import page, runs, sections
from experiments.report.agreement import Prediction
from experiments.report.predictions import Compared, Predictions

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium with chromedriver")

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
LOOKS = list(itertools.product((390, 1400), ("light", "dark")))
# The least contrast of text and background that the Web Content Accessibility Guidelines ask for.
CONTRAST = 4.5

# Texts whose contrast with what is behind them is too small.
FAINT = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
function parsed(color) {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = color;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
}
function over(top, below) {
  return [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
}
function backgrounds(element) {
  if (!element) return [[255, 255, 255, 1]];
  const style = getComputedStyle(element);
  const below = parsed(style.backgroundColor)[3] === 1
    ? [parsed(style.backgroundColor)]
    : backgrounds(element.parentElement).map(one => over(parsed(style.backgroundColor), one));
  // A bar behind a number is another background of it.
  const bar = element.matches('.bar') && style.backgroundImage.match(/rgba?\\([^)]*\\)/);
  return bar ? below.concat(below.map(one => over(parsed(bar[0]), one))) : below;
}
function luminance(color) {
  const [r, g, b] = color.slice(0, 3).map(c => c / 255).map(
    c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function contrast(a, b) {
  const [high, low] = [luminance(a), luminance(b)].sort((x, y) => y - x);
  return (high + 0.05) / (low + 0.05);
}
const found = [];
let texts = 0;
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || element.closest('.hidden, style, defs')) continue;
  texts += 1;
  const style = getComputedStyle(element);
  const ink = parsed(element.closest('svg') ? style.fill : style.color);
  for (const behind of backgrounds(element)) {
    const value = contrast(over(ink, behind), behind);
    if (value < arguments[0]) found.push(`${walker.currentNode.data.trim()}: ${value.toFixed(2)}`);
  }
}
return [texts, found];
"""
# Elements that reach beyond the page, where nothing of their own moves them.
WIDE = """
const width = document.documentElement.clientWidth;
return [...document.body.querySelectorAll('*')].filter(
  one => !one.closest('.scroll, .hidden, svg') && one.getBoundingClientRect().right > width + 1
).map(one => one.outerHTML.slice(0, 120));
"""
SMALL = """
return [...document.querySelectorAll('svg:not([aria-hidden]) text')].map(
  one => [one.textContent, parseFloat(getComputedStyle(one).fontSize) *
    one.closest('svg').getBoundingClientRect().width / one.closest('svg').viewBox.baseVal.width]
).filter(([_, size]) => size && size < 10);
"""


def many_classes():
    """Predictions of students on images of 100 classes with long names."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 100
    teacher, student = (
        Prediction(np.where(rng.random(400) < rate, rng.integers(0, 100, 400), labels),
                   rng.random(400).astype(np.float32))
        for rate in (0.1, 0.3)
    )  # fmt: skip
    names = [f"great_black_backed_gull_{i}, northern" for i in range(100)]
    members = [Compared("a_student_with_a_long_name_seed0", student, teacher, ("runs/x/teacher",))]
    split = type("_Split", (), {"labels": labels, "__len__": lambda self: 400})()
    split.split = type("_Images", (), {"images": rng.integers(0, 256, (400, 8, 8, 3), np.uint8)})
    return Predictions(
        split, 100, names, {"a_student_with_a_long_name": members}, {"runs/x/teacher": teacher}
    )


def report(config):
    """Tables and figures of papers, wider than a telephone."""
    columns = ["", *(f"accuracy {i} of the paper, paper" for i in range(5))]
    columns += [f"accuracy {i} of the paper" for i in range(5)]
    rows = [[f"A method with a name that is long, number {i}", *["70.66"] * 5, *[measured("kd")] * 5]
            for i in range(4)]  # fmt: skip
    add_table(config, "one", caption="What a paper has. " * 20, columns=columns, rows=rows)
    series = {"here": {0.0: measured("scratch"), 1.0: measured("kd")}, "a paper": {0.5: 0.7}}
    add_figure(
        config, "two", caption="A figure.", x_label="x", series=series, span=(0.2, 0.6),
        span_label="a range",
    )  # fmt: skip
    points = {name: [(measured(name), measured(name, "nll"))] for name in ("scratch", "kd")}
    add_scatter(config, "three", caption="Points.", x_label="x", y_label="y", series=points)
    return config.to_dict()["report"]


@pytest.fixture(scope="module")
def file(finished, tmp_path_factory):
    """A page about three runs: of the digits, of many classes, and one whose data are gone."""
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(finished, folder / "run")
    summary = json.loads((folder / "run/summary.json").read_text())
    summary["config"]["report"] = report(common.base())
    summary["command"] = f"python -m experiments.main --config.{'very_long_' * 20}key=1"
    (folder / "run/summary.json").write_text(json.dumps(summary))
    run = runs.read(folder / "run")
    one = page.describe(run)
    many = many_classes()
    students = sections.students(many)
    other = one._replace(
        run=run._replace(name="a_run_with_a_name_that_is_much_longer_than_a_telephone_is_wide"),
        students=students, outcomes=sections.outcome_table(students),
        per_class=sections.per_class(many), class_names=many.class_names,
        remark="The networks are not those of the summary.",
    )  # fmt: skip
    without = page.describe(run, tables_only=True)
    path = folder / "report.html"
    path.write_text(page.html([one, other, without]))
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(params=LOOKS, ids=lambda look: f"{look[0]}-{look[1]}")
def opened(request, browser, file):
    """The browser with the page, all of it open, at one width in one colour scheme."""
    width, scheme = request.param
    browser.get_log("performance")
    browser.get_log("browser")
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(file.as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    return browser


def test_the_page_fits_and_is_readable(opened):
    inner, scrolled = opened.execute_script(
        "return [window.innerWidth, document.documentElement.scrollWidth]"
    )
    assert scrolled <= inner
    assert opened.execute_script(WIDE) == []
    texts, faint = opened.execute_script(FAINT, CONTRAST)
    assert texts > 500
    assert faint == []
    assert opened.execute_script(SMALL) == []


def test_the_page_asks_for_nothing_and_its_images_are_there(opened, file):
    widths = opened.execute_script("return [...document.images].map(one => one.naturalWidth)")
    assert len(widths) > 20
    assert min(widths) > 0
    events = [json.loads(row["message"])["message"] for row in opened.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    assert opened.get_log("browser") == []


def test_the_schemes_differ(browser, file):
    colors = []
    browser.get(file.as_uri())
    for scheme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        colors.append(
            browser.execute_script(
                "return [document.documentElement, "
                """document.querySelector("figure svg path[style*='stroke: var(--series']")]"""
                ".map(one => getComputedStyle(one).backgroundColor + getComputedStyle(one).stroke)"
            )
        )
    assert colors[0][0] != colors[1][0]
    assert colors[0][1] != colors[1][1]


def test_every_picture_is_described_and_headings_are_in_order(browser, file):
    browser.get(file.as_uri())
    assert browser.execute_script(
        "return [...document.querySelectorAll('img:not([alt]), svg:not([aria-label]):not([aria-hidden])')].length"
    ) == 0  # fmt: skip
    levels = browser.execute_script(
        "return [...document.querySelectorAll('h1, h2, h3, h4, h5')].map(one => +one.tagName[1])"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert browser.execute_script("return document.documentElement.lang") == "en"
    ids = browser.execute_script("return [...document.querySelectorAll('[id]')].map(one => one.id)")
    assert browser.execute_script(
        "return [...document.querySelectorAll('use')].every("
        "one => document.querySelector(one.getAttribute('xlink:href')))"
    )
    assert ids
