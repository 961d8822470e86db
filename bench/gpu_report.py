"""The table of `docs/performance.md`: what is aimed at, and what was measured.

`python bench/gpu_report.py [RESULTS.json ...] -o docs/performance.md` writes it;
without results every figure says that it was not measured. What `gpu_paper.py`
predicted is a section of its own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODELS = ("llama-1b", "llama-3.1-8b", "chatglm3-6b", "glm-4-9b", "qwen3-8b")
NOT_YET = "not yet measured"
PAPER = Path(__file__).with_name("paper.json")

Rows = Callable[[str, str], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Figure:
    """A row of the table: what it is, what is aimed at, and where it stands in the
    results, which may not have it."""

    what: str
    goal: str
    find: Callable[[Rows, str], float | None]


def _row(section: str, column: str, **wanted: Any) -> Callable[..., Any]:
    """A column of the row that has these values, of a section of the model's build."""

    def find(rows: Rows, model: str) -> Any:
        for row in rows(model, section):
            if all(row.get(key) == value for key, value in wanted.items()):
                return row[column]
        return None

    return find


def _codes(bits: int) -> Callable[..., float | None]:
    """Tokens a second with codes over those with floats."""

    def find(rows: Rows, model: str) -> float | None:
        rate = _row("decode", "tok/s", batch=1)
        mine, codes = rate(rows, model), rate(rows, f"{model}-int{bits}")
        return codes / mine if mine and codes else None

    return find


def _wrong(rows: Rows, model: str) -> float | None:
    found = rows(model, "kernels")
    return sum(row["right"] != "yes" for row in found) if found else None


FIGURES = (
    Figure("kernels that differ from the reference", "0", _wrong),
    Figure("decode, bf16, batch 1: tok/s", "", _row("decode", "tok/s", batch=1)),
    Figure(
        "its part of the measured read",
        "≥ 0.85, 1B ≥ 0.70",
        _row("decode", "of read", batch=1),
    ),
    Figure(
        "times transformers eager",
        "≥ 4",
        _row("beside", "ratio", model="transformers eager"),
    ),
    Figure(
        "times transformers, static cache, compiled",
        "≥ 1.25",
        _row("beside", "ratio", model="transformers static, compiled"),
    ),
    Figure(
        "times a plain model, compiled whole",
        "",
        _row("beside", "ratio", model="plain, compiled"),
    ),
    Figure("decode, bf16, batch 16: tok/s", "", _row("decode", "tok/s", batch=16)),
    Figure("int8 over bf16", "≥ 1.75", _codes(8)),
    Figure("int4 over bf16", "≥ 2.8", _codes(4)),
    Figure(
        "KV read at 32k, of the measured read", "≥ 0.80", _row("kv read", "of read")
    ),
    Figure(
        "attention of an 8k prompt, times SDPA flash",
        "≥ 1.1",
        _row("attention", "ratio", model="glmc"),
    ),
    Figure("prompt of 2048: tok/s", "", _row("prefill", "tok/s", model="glmc")),
)


def results_table(results: Mapping[str, Any] | None) -> str:
    """The figures as a Markdown table, a column for each model."""
    sections = results["sections"] if results else []
    known = {(s["build"], s["section"]): s["rows"] for s in sections}

    def rows(build: str, section: str) -> Sequence[Mapping[str, Any]]:
        return known.get((build, section)) or []

    builds = dict.fromkeys(s["build"] for s in sections if "-int" not in s["build"])
    models = MODELS if not results else tuple(builds)
    lines = [_line(["", "goal", *models]), _line(["---"] * (2 + len(models)))]
    for figure in FIGURES:
        cells = [_cell(figure.find(rows, model)) for model in models]
        lines.append(_line([figure.what, figure.goal, *cells]))
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def _cell(value: float | None) -> str:
    return NOT_YET if value is None else f"{value:.4g}"


def device_text(results: Mapping[str, Any]) -> str:
    """Return what was measured on and with, and what failed."""
    known = results["environment"]
    lines = [f"- {name}: {value}" for name, value in known.items()]
    for section in results["sections"]:
        if section["error"]:
            place = f"{section['build']}, {section['section']}"
            lines.append(f"- not measured: {place}: {section['error']}")
    return "\n".join(lines)


PAGE = """# Performance

What the Triton backend aims at on a GPU, and what was measured. Goals are those of an
H200. A part of the read is against a streaming read that was measured on the same
device in the same run, never against a data sheet. `bench/gpu.py` takes all figures in
one call (`bench/README.md` says how); `bench/gpu_report.py` writes this page. What was
measured on a CPU stands beside [its kernels](cpu.md#measured).
"""


ON_PAPER = """## On paper: {device}

No figure of this section was measured. `bench/gpu_paper.py` compiled the kernels of a
token of one row after {context} tokens for this GPU, and predicted each launch from its
machine code; [Kernels](kernels.md#on-paper) has the columns and the model. The floor is
that of `glmc inspect --cost`: all bytes once at the data sheet's bandwidth.
"""


def paper_text(paper: Mapping[str, Any]) -> str:
    """The predictions: a line for each model, and one for each launch that takes a
    twentieth of a model's token."""
    models = paper["models"]
    head = ["", "launches", "floor, µs", "predicted, µs", "of the floor's rate"]
    head += ["tok/s at most", "ops as torch code"]
    lines = [_line(head), _line(["---"] * len(head))]
    for name, found in models.items():
        time, floor = found["time"], found["floor"]
        count = sum(launch["times"] for launch in found["launches"])
        cells = [name, str(count), f"{floor:,.0f}", f"{time:,.0f}"]
        cells += [f"{floor / time:.0%}", f"{1e6 / time:,.0f}"]
        lines.append(_line([*cells, str(found["without a kernel"] or "-")]))
    head = ["model", "kernel", "µs, times", "programs", "waves", "tail"]
    head += ["bits of loads", "enough under way", "issue", "limit"]
    rows = [_line(head), _line(["---"] * len(head))]
    for name, found in models.items():
        for launch in found["launches"]:
            if launch["times"] * launch["time"] >= found["time"] / 20:
                rows.append(_line([name, *_launch_cells(launch)]))
    title = ON_PAPER.format(device=paper["device"], context=paper["context"])
    return "\n".join([title, *lines, "", *rows, ""])


def _launch_cells(launch: Mapping[str, Any]) -> list[str]:
    widths = launch["reads"]["widths"].items()
    return [
        launch["kernel"].removesuffix("_kernel"),
        f"{launch['time']:.1f} x {launch['times']}",
        f"{launch['programs']:,}",
        str(launch["waves"]),
        f"{launch['tail']:.0%}",
        ", ".join(f"{count}x{bits}" for bits, count in widths),
        f"{launch['enough']:.0%}",
        f"{launch['issue']:.2f}",
        launch["limit"],
    ]


def page(
    results: Sequence[Mapping[str, Any]], paper: Mapping[str, Any] | None = None
) -> str:
    """The page, with a table for each device, and the predictions."""
    parts = [PAGE]
    for one in results:
        parts.append(f"## {one['environment']['device']}\n")
        parts += [f"{device_text(one)}\n", f"{results_table(one)}\n"]
    if not results:
        parts += ["## H200\n", "No GPU was at hand yet.\n", f"{results_table(None)}\n"]
    parts += [paper_text(paper)] if paper else []
    return "\n".join(parts)


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="*", type=Path)
    parser.add_argument("--paper", type=Path, default=PAPER, help="of gpu_paper.py")
    parser.add_argument("-o", "--out", type=Path, default=Path("docs/performance.md"))
    options = parser.parse_args()
    read = [json.loads(file.read_text()) for file in options.results]
    paper = json.loads(options.paper.read_text())
    options.out.write_text(page(read, paper))


if __name__ == "__main__":
    main()
