"""The report in a real headless Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glmc.command.cli import main
from glmc.look import roofline
from glmc.look.builds import Build
from glmc.look.devices import device
from support import GOLDEN

webdriver = pytest.importorskip("selenium.webdriver")
Select = pytest.importorskip("selenium.webdriver.support.ui").Select
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed"
)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser") / "build"
    assert main(["compile", str(GOLDEN / "chatglm3"), "-o", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def report(build: Path) -> str:
    file = build.parent / "report.html"
    assert main(["report", str(build), "-o", str(file)]) == 0
    return file.as_uri()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["laptop", "phone"])
def browser(chromium: Any, report: str, request: pytest.FixtureRequest) -> Any:
    """The report, opened; afterwards the console must be silent."""
    width, height = request.param
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    chromium.get_log("browser")
    chromium.get(report)
    yield chromium
    assert chromium.get_log("browser") == []


def one(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def texts(browser: Any, selector: str) -> list[str]:
    return [e.text for e in browser.find_elements("css selector", selector)]


def test_it_fits_the_screen(browser: Any) -> None:
    root = "document.documentElement"
    script = f"return {root}.scrollWidth - {root}.clientWidth"
    for at in (0, 7):
        browser.execute_script(f"state.stage = {at}; draw()")
        assert browser.execute_script(script) <= 0
    for tab in ("code", "ledger", "weights", "roofline", "keys", "graph"):
        browser.execute_script(f"show('{tab}')")
        assert browser.execute_script(script) <= 0
    assert "3 x layer" in one(browser, "#facts").text


def test_the_slider_steps_through_the_stages(browser: Any) -> None:
    seen, boxes, fresh = [], [], {}
    while True:
        seen.append(one(browser, "#stagename").text)
        boxes.append(len(browser.find_elements("css selector", "#drawing .op")))
        fresh[seen[-1]] = texts(browser, "#drawing .fresh")
        if not one(browser, "#next").is_enabled():
            break
        one(browser, "#next").click()
    assert seen[0] == "lowered"
    assert seen[-3:] == ["qkv-attention", "mix", "mix-norm"]
    assert boxes[0] > boxes[-1]
    assert len(fresh["qkv-attention"]) == 1
    assert "qkv_attention" in fresh["qkv-attention"][0]
    for name in ("keep-quantized", "mix", "mix-norm"):  # a GLM has nothing of theirs
        assert fresh[name] == []


def test_an_op_says_what_it_is_and_leads_to_its_line(browser: Any) -> None:
    for _ in range(20):
        if one(browser, "#next").is_enabled():
            one(browser, "#next").click()
    box = one(browser, '#drawing .op[data-op="0"]')
    browser.execute_script("arguments[0].dispatchEvent(new Event('click'))", box)
    said = one(browser, "#details").text
    assert "rms_norm_linear(%x, @input_layernorm" in said
    assert '@input_layernorm = "input_layernorm.weight"[64]' in said
    one(browser, "#details button").click()
    assert "ops.rms_norm_linear(" in one(browser, "#module .picked").text
    assert "rms_norm_linear(%x, @input" in one(browser, "#ir .picked").text


def test_search_finds_a_tensor(browser: Any) -> None:
    one(browser, "#query").send_keys("query_key_value.bias")
    hits = texts(browser, "#found button")
    assert any("qkv_bias" in hit and "weight" in hit for hit in hits)
    at = next(i for i, hit in enumerate(hits) if hit.endswith("weight"))
    browser.find_elements("css selector", "#found button")[at].click()
    assert "@qkv_bias" in one(browser, "#weights tr.picked").text
    one(browser, "#query").clear()
    one(browser, "#query").send_keys("no such thing")
    assert texts(browser, "#found li") == ["Nothing of that name."]


def test_the_roofline_says_what_inspect_says(browser: Any, build: Path) -> None:
    one(browser, "#tab-roofline").click()
    Select(one(browser, "#device")).select_by_visible_text("L4")
    Select(one(browser, "#call")).select_by_visible_text("a prompt of 2,048")
    call = roofline.call_of(1, 0, 2048)
    made = Build(build)
    lines = roofline.lines(made.program, call, device("l4"), made.target)
    floor = roofline.total(lines).floor
    said = one(browser, "#roofsum b").text
    number, unit = said.split()
    assert float(number) * {"µs": 1, "ms": 1e3}[unit] == pytest.approx(floor, rel=0.01)
    assert len(browser.find_elements("css selector", "#rooftable tbody tr")) == len(
        lines
    )
    bound = [line for line in lines if line.bound == "flops"]
    assert bound
    dots = browser.find_elements("css selector", "#roofplot circle.operations")
    assert len(dots) == len(bound)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(browser: Any, scheme: str, tmp_path: Path) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    colour = browser.execute_script(
        "return getComputedStyle(document.body).backgroundColor"
    )
    red = int(colour.partition("(")[2].partition(",")[0])
    assert (red > 128) == (scheme == "light")


def test_control_a_broken_page_is_noticed(
    chromium: Any, report: str, tmp_path: Path
) -> None:
    text = Path(report.removeprefix("file://")).read_text()
    broken = tmp_path / "broken.html"
    broken.write_text(text.replace('"stages":', '"stags":'))
    chromium.get_log("browser")
    chromium.get(broken.as_uri())
    assert any(entry["level"] == "SEVERE" for entry in chromium.get_log("browser"))
