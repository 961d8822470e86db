"""Read the modeling code of transformers as text, type by type, and compare its logits.

Every variant of the parity tests: a prompt, decoding with the cache, a padded batch.
Nothing of the texts is imported here; transformers imports its own for the reference.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402

from glmc.frontends.code.oracle import TextModel  # noqa: E402
from glmc.frontends.code.room import roomy  # noqa: E402
from glmc.ir.errors import GlmcError  # noqa: E402
from support import reference, texts, tiny  # noqa: E402
from support.variants import VARIANTS, Variant  # noqa: E402

TOLERANCE = 5e-5


@dataclass
class Row:
    """The findings on one variant."""

    variant: Variant
    differences: Sequence[float] = ()
    seconds: float = 0.0
    error: str = ""

    @property
    def verdict(self) -> str:
        """``equal``, ``DIFFERS`` or ``refused``."""
        if self.error:
            return "refused"
        return "equal" if max(self.differences) <= TOLERANCE else "DIFFERS"


def measure(variant: Variant, folder: Path) -> Row:
    """Make a variant's checkpoint and compare its text with transformers."""
    tiny.make(variant, folder)
    model = reference.load(folder, variant.attention)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text, weights = texts.text_of(model), model.state_dict()

    def read() -> TextModel:
        made = TextModel(text, config, attention=variant.attention)
        made.load(weights)
        return made

    def theirs() -> Any:
        return reference.load(folder, variant.attention)

    began = time.perf_counter()
    try:
        found = roomy(lambda: list(_differences(variant, read, theirs)))
    except GlmcError as error:
        return Row(variant, error=str(error))
    return Row(variant, found, time.perf_counter() - began)


def _differences(variant: Variant, read: Any, theirs: Any) -> Iterator[float]:
    vocab = theirs().config.get_text_config().vocab_size
    ids = reference.padded_batch(vocab).ids[1:]
    with torch.no_grad():
        yield _worst(read()(input_ids=ids).logits, theirs()(input_ids=ids).logits)
    yield _worst(reference.cached(read(), ids), reference.cached(theirs(), ids))
    if variant.padding:
        batch = reference.padded_batch(vocab)
        given = (batch.ids, batch.mask, batch.positions)
        real = batch.mask == 1
        got, want = reference.cached(read(), *given), reference.cached(theirs(), *given)
        yield _worst(got[real], want[real])


def _worst(got: torch.Tensor, want: torch.Tensor) -> float:
    return (got - want).abs().max().item()


def main() -> int:
    """Print a line for each variant, and how many types run and differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="TYPE,...", help="these types alone")
    parser.add_argument("--first", action="store_true", help="one variant of each type")
    options = parser.parse_args()
    only = set(options.only.split(",")) if options.only else None
    torch.set_num_threads(1)
    rows: list[Row] = []
    for variant in VARIANTS:
        seen = {row.variant.family for row in rows}
        if (only and variant.family not in only) or (
            options.first and variant.family in seen
        ):
            continue
        with tempfile.TemporaryDirectory() as folder:
            row = measure(variant, Path(folder))
        rows.append(row)
        worst = " ".join(f"{d:.1e}" for d in row.differences)
        told = row.error or f"{worst}  {row.seconds:.1f} s"
        print(f"{row.verdict:<8} {variant!s:<34} {told}", flush=True)
    return summary(rows)


def summary(rows: Sequence[Row]) -> int:
    """Return how many types run and differ; 0 when none differs."""
    worst: dict[str, set[str]] = {}
    for row in rows:
        worst.setdefault(row.variant.family, set()).add(row.verdict)
    equal = sum(found == {"equal"} for found in worst.values())
    differ = sum("DIFFERS" in found for found in worst.values())
    exact = sum(not row.error and max(row.differences) == 0 for row in rows)
    print(
        f"\n{equal} of {len(worst)} types equal transformers in all their variants, "
        f"{differ} differ, {len(worst) - equal - differ} are refused in one; "
        f"{exact} of {len(rows)} variants bit for bit"
    )
    return 1 if differ else 0


if __name__ == "__main__":
    raise SystemExit(main())
