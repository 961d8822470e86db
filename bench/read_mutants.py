"""Change transformers' modeling files one mistake at a time, and see each refused.

Every file is read as `glmc read` does it, and is found equal to a spec. Its mutants (a
larger epsilon, halves turned the other way, a window in the code, an untied head, ...)
are held against the same small models; one that gives the same logits is read by the
rules of acceptance. None may pass for what it was made from.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402

from support.mutated import MUTATIONS, TEXTS, apart, mutant, original  # noqa: E402

ACCEPTED, NO_PLACE = "ACCEPTED", "-"


def table(names: Sequence[str], mutations: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return for each text and mutation how it was refused; prints as it goes."""
    rows: dict[str, dict[str, str]] = {}
    for name in names:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            whole = original(name, Path(folder) / "original")
            if max(apart(whole.text, one) for one in whole.smalls) > 1e-5:
                raise RuntimeError(f"{name} differs from itself")
            row = rows.setdefault(name, {})
            for mutation in mutations:
                changed = mutant(whole.text, mutation, whole.tied)
                if changed is None:
                    row[mutation] = NO_PLACE
                    continue
                reason = whole.refusal(changed, Path(folder) / mutation)
                row[mutation] = ACCEPTED if reason is None else reason
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
        for mutation, told in row.items():
            print(f"  {mutation:<15} {told[:110]}", flush=True)
    return rows


def main() -> int:
    """Print a line for each mutant; 1 when one was accepted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="TEXT,...", help="these texts alone")
    parser.add_argument("--mutations", metavar="NAME,...", help="these alone")
    parser.add_argument("--json", type=Path, help="write the table to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.only.split(",") if options.only else TEXTS
    mutations = options.mutations.split(",") if options.mutations else [*MUTATIONS]
    rows = table(names, mutations)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    told = [one for row in rows.values() for one in row.values() if one != NO_PLACE]
    accepted = told.count(ACCEPTED)
    print(f"\n{len(told)} mutants of {len(rows)} texts: {accepted} accepted")
    return 1 if accepted else 0


if __name__ == "__main__":
    raise SystemExit(main())
