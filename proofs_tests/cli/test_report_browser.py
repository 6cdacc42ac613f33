"""The report in a real browser, where one is on the PATH: nothing complains, nothing sticks out, on phone and desk."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from proofs_tests.cli.test_report import recorded_fit, run_of
from proofs_tests.documents import documents_examples as examples
from reader_theory.validate import validate
from runtime.cli._report_advice import advice_of
from runtime.report.html import Part, render_report

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser on the PATH: {', '.join(BROWSERS)}")

MEASURE = """
<script>
function sticks(element, limit) {
  for (let up = element.parentElement; up; up = up.parentElement) {
    if (["auto", "scroll", "hidden"].includes(getComputedStyle(up).overflowX)) return false;
  }
  return element.getBoundingClientRect().right > limit + 1;
}
addEventListener("load", () => {
  const root = document.documentElement, limit = root.clientWidth;
  const out = [...document.body.querySelectorAll("*")].filter(each => sticks(each, limit)).map(each => each.tagName);
  const scrolls = [...document.querySelectorAll("pre, p, dd, h1, h2, h3, .gains li")]
    .filter(each => each.scrollWidth > each.clientWidth + 1 && each.clientWidth > 0).map(each => each.tagName);
  const told = {wide: innerWidth, scroll: root.scrollWidth, client: limit, out, scrolls, tall: root.scrollHeight};
  const place = document.createElement("output");
  place.id = "measured"; place.textContent = JSON.stringify(told); document.body.append(place);
});
</script>
"""


def opened(page: Path, width: int) -> tuple[str, str]:
    """What the browser made of a page, and what it logged."""
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom",
             "--host-resolver-rules=MAP * ~NOTFOUND", f"--window-size={width},900")  # fmt: skip
    done = subprocess.run(
        [str(BROWSER), *flags, f"--user-data-dir={page.parent / 'profile'}", page.as_uri()], capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, done.stderr


def complaints(log: str) -> list[str]:
    return re.findall(r".*CONSOLE.*", log)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two runs with everything in them, names as long as paths are, and a wide tree."""
    both = examples.policy_of(examples.TREE.tree, examples.RETRIEVAL, skip=4)
    entries = [examples.entry(1, examples.TREE), examples.entry(4, both), examples.entry(8, examples.OFF),
               examples.entry(1, examples.CHAIN_3, workload="a-workload-with-a-name-that-has-no-end-" * 3)]  # fmt: skip
    plan = examples.plan(*entries, target="/models/" + "organisation-with-a-long-name/" * 4 + "target")
    trace, fit = recorded_fit()
    folder = tmp_path_factory.mktemp("run")
    record = run_of(plan, folder / "run.json", target=plan.target)
    cost = examples.cost().model_copy(update={"kv_tokens": {"off": 9000, "draft": 8000}})
    validation = validate(plan, record)
    advice = advice_of(plan, None, cost, None)
    parts = [Part(plan, record, validation, fit, cost, trace, advice=advice), Part(plan, record, validation)]
    return render_report(parts)


@pytest.mark.parametrize("width", [360, 1440])
def test_nothing_sticks_out_of_the_page_and_nothing_complains(page: str, width: int, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page.replace("</head>", MEASURE + "</head>"))
    dom, log = opened(file, width)
    told: dict[str, Any] = json.loads(unescape(re.findall(r'<output id="measured">(.*?)</output>', dom)[0]))
    assert told["wide"] == width
    assert told["scroll"] <= told["client"], told
    assert told["out"] == [] and told["scrolls"] == [], told
    assert told["tall"] > 900, "there is a page"
    assert complaints(log) == []


def test_a_page_that_sticks_out_and_complains_is_caught(tmp_path: Path) -> None:
    file = tmp_path / "bad.html"
    body = '<p style="width: 2000px">wide</p><script>console.error("no")</script>'
    file.write_text(f"<!DOCTYPE html><html><head>{MEASURE}</head><body>{body}</body></html>")
    dom, log = opened(file, 360)
    told = json.loads(unescape(re.findall(r'<output id="measured">(.*?)</output>', dom)[0]))
    assert told["out"] and told["scroll"] > told["client"]
    assert complaints(log)


def test_it_prints_on_pages_with_nothing_cut_off(page: str, tmp_path: Path) -> None:
    file, printed = tmp_path / "report.html", tmp_path / "report.pdf"
    file.write_text(page)
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--print-to-pdf={printed}")
    done = subprocess.run(
        [str(BROWSER), *flags, f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()], capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0 and complaints(done.stderr) == []
    assert printed.read_bytes().startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page[^s]", printed.read_bytes()))
    assert 2 <= pages <= 30
