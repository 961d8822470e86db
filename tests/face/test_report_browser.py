"""The report in a real headless Chromium."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import pytest

from glmc.command.cli import main
from glmc.look import roofline
from glmc.look.builds import Build
from glmc.look.devices import device
from glmc.look.inspecting import summary
from support import GOLDEN

webdriver = pytest.importorskip("selenium.webdriver")
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
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


def opened(browser: Any, **said: str) -> None:
    """Follow a link to a view of the page."""
    browser.execute_script(f"location.hash = '{urlencode(said)}'")


def view(browser: Any) -> dict[str, str]:
    """The view that the address has."""
    address = browser.execute_script("return location.hash")
    return {k: v for k, (v,) in parse_qs(address.removeprefix("#")).items()}


def stages_of(build: Path) -> list[str]:
    return list(Build(build).stages)[1:]


def test_it_opens_on_the_last_stage_with_the_graph_in_view(
    browser: Any, build: Path
) -> None:
    assert one(browser, "#stagename").text == stages_of(build)[-1]
    assert view(browser) == {}
    script = """
        const box = document.querySelector("#drawing .op").getBoundingClientRect();
        return [box.top, box.bottom, box.left, box.right, innerHeight, innerWidth];
    """
    top, bottom, left, right, height, width = browser.execute_script(script)
    assert 0 < top < bottom < height * 0.6
    assert 0 <= left < right <= width
    assert "5 ops" in one(browser, "#details").text


def test_it_fits_the_screen(browser: Any, build: Path) -> None:
    root = "document.documentElement"
    script = f"return {root}.scrollWidth - {root}.clientWidth"
    for stage in (stages_of(build)[0], stages_of(build)[7]):
        opened(browser, stage=stage)
        assert browser.execute_script(script) <= 0
    for tab in ("code", "ledger", "weights", "roofline", "keys", "graph"):
        opened(browser, tab=tab)
        assert one(browser, f"#{tab}").is_displayed()
        assert browser.execute_script(script) <= 0
    assert "3 x layer" in one(browser, "#facts").text


#: Labels and boxes of the drawing that a line runs through, as the browser draws them.
CROSSED = """
    const found = [];
    const inside = (rect, x, y) =>
        rect.left + 1 < x && x < rect.right - 1 &&
        rect.top + 1 < y && y < rect.bottom - 1;
    const rects = [...document.querySelectorAll("#drawing .shape, #drawing g")]
        .map((one) => [one.textContent, one.getBoundingClientRect()]);
    for (const path of document.querySelectorAll("#drawing .edge")) {
        const to = path.getScreenCTM();
        const length = path.getTotalLength();
        for (let at = 0; at <= length; at += 1) {
            const point = path.getPointAtLength(at).matrixTransform(to);
            for (const [text, rect] of rects) {
                if (inside(rect, point.x, point.y)) found.push(text);
            }
        }
    }
    return [rects.length, [...new Set(found)]];
"""


def test_no_line_crosses_a_label(browser: Any, build: Path) -> None:
    for stage in stages_of(build):
        opened(browser, stage=stage, part="layer")
        assert one(browser, "#stagename").text == stage
        count, crossed = browser.execute_script(CROSSED)
        assert count > 10
        assert crossed == []
    # A control: a label that is put onto its line.
    moved = "const it = document.querySelector('#drawing .shape'); it.setAttribute('x',"
    browser.execute_script(f"{moved} Number(it.getAttribute('x')) - 20)")
    assert len(browser.execute_script(CROSSED)[1]) == 1


def test_the_slider_steps_through_the_stages(browser: Any, build: Path) -> None:
    opened(browser, stage="lowered")
    seen, boxes, fresh = [], [], {}
    while True:
        seen.append(one(browser, "#stagename").text)
        boxes.append(len(browser.find_elements("css selector", "#drawing .op")))
        fresh[seen[-1]] = texts(browser, "#drawing .fresh")
        if not one(browser, "#next").is_enabled():
            break
        one(browser, "#next").click()
    assert seen == stages_of(build)
    assert boxes[0] > boxes[-1]
    assert len(fresh["qkv-attention"]) == 1
    assert "qkv_attention" in fresh["qkv-attention"][0]
    for name in ("keep-quantized", "mix", "mix-norm"):  # a GLM has nothing of theirs
        assert fresh[name] == []


def test_an_op_says_what_it_is_and_leads_to_its_line(browser: Any) -> None:
    box = one(browser, '#drawing .op[data-op="0"]')
    browser.execute_script("arguments[0].dispatchEvent(new Event('click'))", box)
    said = one(browser, "#details").text
    assert "rms_norm_linear(%x, @input_layernorm" in said
    assert '@input_layernorm = "input_layernorm.weight"[64]' in said
    assert "As it is since rms-norm-linear." in said
    one(browser, "#details button:not(.link)").click()
    assert "ops.rms_norm_linear(" in one(browser, "#module .picked").text
    assert "rms_norm_linear(%x, @input" in one(browser, "#ir .picked").text


def test_every_view_has_an_address(browser: Any, build: Path) -> None:
    before = stages_of(build)[-2]
    one(browser, "#back").click()
    one(browser, "#parts button:last-child").click()
    one(browser, "#tab-weights").click()
    assert view(browser) == {"tab": "weights", "stage": before, "part": "head"}
    one(browser, "#tab-graph").click()
    browser.back()
    assert one(browser, "#weights").is_displayed()
    browser.back()
    assert one(browser, "#stagename").text == before
    assert one(browser, "#parts button[aria-pressed=true]").text == "head"
    browser.back()
    assert one(browser, "#parts button[aria-pressed=true]").text.startswith("layer")
    browser.forward()
    assert one(browser, "#parts button[aria-pressed=true]").text == "head"
    one(browser, '#drawing .op[data-op="0"]').send_keys(Keys.ENTER)
    there = browser.current_url
    assert view(browser) == {"stage": before, "part": "head", "op": "0"}
    browser.get("about:blank")
    browser.get(there)
    assert one(browser, "#drawing .op.picked").get_attribute("data-op") == "0"
    assert one(browser, "#stagename").text == before


def test_an_address_that_means_nothing_is_the_usual_view(
    browser: Any, build: Path
) -> None:
    bad = "<img src=x onerror=alert(1)>"
    opened(browser, tab=bad, stage="__proto__", part="-1", op=bad, row="1e9", line="0")
    assert one(browser, "#graph").is_displayed()
    assert one(browser, "#stagename").text == stages_of(build)[-1]
    opened(browser, op="999999", tab="graph", row="999999")
    assert "5 ops" in one(browser, "#details").text
    opened(browser, tab="weights", row="999999")
    opened(browser, tab="code", line="999999")
    opened(browser, q=bad)
    assert texts(browser, "#found li") == ["Nothing of that name."]
    assert one(browser, "#query").get_attribute("value") == bad


def test_search_finds_a_tensor(browser: Any) -> None:
    one(browser, "#query").send_keys("query_key_value.bias")
    assert view(browser) == {"q": "query_key_value.bias"}
    hits = texts(browser, "#found button")
    assert any("qkv_bias" in hit and "weight" in hit for hit in hits)
    at = next(i for i, hit in enumerate(hits) if hit.endswith("weight"))
    browser.find_elements("css selector", "#found button")[at].click()
    assert "@qkv_bias" in one(browser, "#weights tr.picked").text
    there = browser.current_url
    browser.get("about:blank")
    browser.get(there)
    assert "@qkv_bias" in one(browser, "#weights tr.picked").text
    assert not one(browser, "#found").is_displayed()
    one(browser, "#query").clear()
    one(browser, "#query").send_keys("no such thing")
    assert texts(browser, "#found li") == ["Nothing of that name."]


def test_tables_say_what_things_are_worth(browser: Any, build: Path) -> None:
    facts = summary(Build(build))
    opened(browser, tab="weights")
    foot = one(browser, "#weights tfoot").text
    assert f"{facts['weight_bytes']:,} bytes" in foot
    block = one(browser, "#weights tbody:nth-of-type(2) .group").text
    assert re.fullmatch(r"layer x 3: [\d.]+ kB in each, [\d.]+ kB in all", block)
    opened(browser, tab="keys")
    rows = texts(browser, "#keys tbody tr")
    assert any(re.search(r"num_layers\s.*?3\s", row, re.DOTALL) for row in rows)
    assert len(rows) == len(facts["config_keys"])


def test_two_builds(chromium: Any, build: Path, tmp_path: Path) -> None:
    out = tmp_path / "two.html"
    assert main(["report", "llama-3.1-8b", "glm-4.5-air", "-o", str(out)]) == 0
    for width in (1280, 390):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        chromium.get_log("browser")
        chromium.get(out.as_uri())
        assert "config keys differ." in one(chromium, "#said").text
        assert texts(chromium, "#drawing-a .op.a")
        assert texts(chromium, "#drawing-b .op.b")
        script = "arguments[0].dispatchEvent(new Event('click'))"
        chromium.execute_script(script, one(chromium, "#drawing-b .op.b"))
        assert len(texts(chromium, "#oplines tr.picked")) == 1
        opened(chromium, tab="keys")
        assert "hidden_act" not in one(chromium, "#keys").text
        one(chromium, "#all").click()
        assert view(chromium) == {"tab": "keys", "all": "yes"}
        assert "hidden_act" in one(chromium, "#keys").text
        root = "document.documentElement"
        wide = f"return {root}.scrollWidth - {root}.clientWidth"
        for tab in ("ops", "weights", "keys", "fusions", "facts"):
            one(chromium, f"#tab-{tab}").click()
            assert one(chromium, f"#{tab}").is_displayed()
            assert chromium.execute_script(wide) <= 0
        chromium.back()
        assert one(chromium, "#fusions").is_displayed()
        assert chromium.get_log("browser") == []


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
