"""Time the commands that look at a build, and measure its report.

Each command runs in a fresh process, in turns with the bare interpreter; medians. The
report is that of a mixture of 60 layers, and Chromium, where there is one, opens it.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import Row, show

VIEWS = (
    ["inspect", "BUILD"],
    ["inspect", "BUILD", "--stage", "lowered"],
    ["inspect", "BUILD", "--diff", "lowered", "act-mul"],
    ["inspect", "BUILD", "--trace", "model.py:30"],
    ["inspect", "BUILD", "--weights", "--json"],
    ["inspect", "BUILD", "--cost", "h200"],
)
MIXTURE = ("glm-4.5-air", "--set", "num_hidden_layers=60")
LIMIT_MB, LIMIT_S = 2.0, 1.0


def seconds(*command: str) -> tuple[float, float]:
    """Wall and CPU time of a process."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *command], check=True, stdout=subprocess.DEVNULL, timeout=120
    )
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, used


def glmc(*command: str) -> None:
    """Run a command that must succeed."""
    seconds("-m", "glmc", *command)


def looks(build: Path, runs: int) -> list[Row]:
    """A row a view: seconds, and how many times the CPU's of `python -c pass`."""
    rows: list[Row] = []
    for view in VIEWS:
        command = [str(build) if word == "BUILD" else word for word in view]
        taken, empty = [], []
        for _ in range(runs):
            taken.append(seconds("-m", "glmc", *command))
            empty.append(seconds("-c", "pass")[1])
        wall, used = map(statistics.median, zip(*taken, strict=True))
        rows.append(
            {
                "what": " ".join(word for word in view if word != "BUILD"),
                "wall s": wall,
                "cpu s": used,
                "times python -c pass": used / statistics.median(empty),
            }
        )
    return rows


def opened(page: Path, runs: int) -> float | None:
    """Milliseconds until the page is drawn, as Chromium tells them; None without it."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        return None
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    script = (
        "const t = performance.getEntriesByType('navigation')[0];"
        "return t.loadEventEnd - t.startTime"
    )
    try:
        found = []
        for _ in range(runs):
            browser.get(page.as_uri())
            found.append(float(browser.execute_script(script)))
    finally:
        browser.quit()
    return statistics.median(found)


def report(folder: Path, runs: int) -> list[Row]:
    """Size of the mixture's report, and what opening it takes."""
    build, page = folder / "mixture", folder / "report.html"
    glmc("compile", *MIXTURE, "-o", str(build))
    glmc("report", str(build), "-o", str(page))
    megabytes = page.stat().st_size / 1e6
    rows: list[Row] = [{"what": "report, MB", "is": megabytes, "limit": LIMIT_MB}]
    milliseconds = opened(page, runs)
    if milliseconds is not None:
        took = milliseconds / 1000
        rows.append({"what": "report opens, s", "is": took, "limit": LIMIT_S})
    return rows


def main() -> None:
    """Print both tables; fail where the report is over a limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build = folder / "chatglm3-6b"
        glmc("compile", "chatglm3-6b", "-o", str(build))
        views, page = looks(build, options.runs), report(folder, options.runs)
    show(views, options.json)
    show(page, None)
    raise SystemExit(any(float(row["is"]) > float(row["limit"]) for row in page))


if __name__ == "__main__":
    main()
