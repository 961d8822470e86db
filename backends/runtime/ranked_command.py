"""The command of a build for several ranks: each runs it, the first one prints."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch

from .processes import group
from .ranks import current


def run(
    build: Any,
    *,
    device: str,
    about: str,
    arguments: Sequence[str] | None = None,
) -> int:
    """Continues a prompt by the package `build`; returns the exit code. What is refused
    is a sentence on stderr, and 2."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", required=True, help="a folder or hub id")
    parser.add_argument("--prompt", help="a text to continue")
    parser.add_argument("--prompt-ids", help="token ids instead: 64790,64792,30910")
    parser.add_argument("--variant", help="of the tokenizer, where files do not decide")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int)
    there = device != "cuda" or torch.cuda.is_available()
    parser.add_argument("--device", default=device if there else "cpu")
    parser.add_argument(
        "--dtype", help="bfloat16, float32, ...; the model's by default"
    )
    asked = parser.parse_args(arguments)
    if (asked.prompt is None) == (asked.prompt_ids is None):
        parser.error("give --prompt or --prompt-ids")
    try:
        with group(asked.device):
            said = _answer(build, asked)
            if current().number == 0:
                print(said, flush=True)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


def _answer(build: Any, asked: Any) -> str:
    """Returns what follows the prompt: text, or token ids."""
    model = build.load(asked.weights, device=asked.device, dtype=asked.dtype)
    how = {name: getattr(asked, name) for name in _HOW}
    if asked.prompt is not None:
        named = {} if asked.variant is None else {"variant": asked.variant}
        tokenizer = build.load_tokenizer(asked.weights, **named)
        return str(model.generate(asked.prompt, tokenizer=tokenizer, **how))
    ids = [[int(part) for part in asked.prompt_ids.split(",")]]
    prompt = torch.tensor(ids, device=model.device)
    made = model.generate(prompt, **how)[0, len(ids[0]) :]
    return ",".join(map(str, made.tolist()))


_HOW = ("max_new_tokens", "temperature", "seed")
