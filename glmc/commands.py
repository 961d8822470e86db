"""What each command of the command line does, and how it says so."""

import argparse
import json
from typing import Any

from glmc.builds import Build
from glmc.ir.errors import GlmcError


def compile_command(arguments: argparse.Namespace) -> int:
    """``glmc compile``."""
    from glmc.backends.triton.aot import rows, table
    from glmc.driver import Options, compile_files
    from glmc.writing import write_build

    options = Options(
        variant=arguments.variant,
        spec=arguments.spec,
        sets=tuple(arguments.sets),
        ignore_keys=tuple(arguments.ignore_key),
        disable=tuple(arguments.disable),
        strict=arguments.strict,
        verify_passes=arguments.verify_passes,
        kernels=tuple(arguments.kernels),
        aot=arguments.aot,
        aot_dtypes=arguments.aot_dtype,
        revision=arguments.revision,
    )
    compiled = compile_files(arguments.source, options)
    write_build(arguments.out, compiled.files, force=arguments.force)
    entries = [entry for stage in compiled.stages for entry in stage.ledger]
    applied = sum(entry.status == "applied" for entry in entries)
    facts = {
        "build": str(arguments.out),
        "model": compiled.loaded.model.name,
        "spec": compiled.loaded.spec,
        "layers": compiled.loaded.model.layers,
        "fusions_applied": applied,
        "verified": compiled.verified,
        "own_kernels": dict(compiled.own),
    }
    if compiled.ahead:
        facts["aot"] = rows(compiled.ahead)
    if arguments.json:
        print(json.dumps(facts, indent=2))
        return 0
    print(
        f"{arguments.out}: {facts['model']}, {facts['layers']} layers, "
        f"{applied} fusions applied; see: glmc inspect {arguments.out}"
    )
    if compiled.verified:
        worst = max(compiled.verified.values())
        print(f"{len(compiled.verified)} stages agree, worst difference {worst:.2g}")
    for op, difference in compiled.own.items():
        print(f"your {op} agrees with the reference, worst difference {difference:.2g}")
    if compiled.ahead:
        print(f"\n{table(compiled.ahead)}")
    return 0


def inspect_command(arguments: argparse.Namespace) -> int:
    """``glmc inspect``."""
    from glmc import inspecting, roofline
    from glmc.devices import device

    build = Build(arguments.build)
    if arguments.stage:
        _show(build.dump(arguments.stage), {"stage": arguments.stage}, arguments.json)
    elif arguments.ledger:
        rows = [entry.model_dump() for entry in build.ledger]
        _show(inspecting.ledger_text(build.ledger), {"ledger": rows}, arguments.json)
    elif arguments.cost:
        call = roofline.call_of(arguments.batch, arguments.context, arguments.tokens)
        on = device(arguments.cost)
        text = roofline.text(build, call, on)
        _show(text, roofline.facts(build, call, on), arguments.json)
    elif arguments.stages:
        dumps = {name: build.dump(name) for name in build.stages}
        text = "\n".join(f"# {name}\n{dump}" for name, dump in dumps.items())
        _show(text, {"stages": dumps}, arguments.json)
    else:
        text = "\n\n".join(
            [
                inspecting.summary_text(build),
                build.dump(list(build.stages)[-1]).rstrip(),
                inspecting.ledger_text(build.ledger),
                "more: --stage NAME, --stages, --ledger, --json",
            ]
        )
        _show(text, inspecting.summary(build), arguments.json)
    return 0


def _show(text: str, facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        extra = {"text": text} if "stage" in facts else {}
        print(json.dumps(facts | extra, indent=2, ensure_ascii=False))
    else:
        print(text.rstrip("\n"))


def check_command(arguments: argparse.Namespace) -> int:
    """``glmc check``."""
    from glmc.accounting import account, grouped
    from glmc.frontends.checkpoint import read_headers

    build = Build(arguments.build)
    headers = read_headers(arguments.weights)
    found = account(build.model, build.program, headers.tensors)
    if arguments.json:
        facts = {
            "ok": found.ok,
            "bound": len(found.bound),
            "shapes_checked": found.shapes_known,
            "missing": found.missing,
            "wrong": found.wrong,
            "unused": found.unused,
            "waived": found.waived,
        }
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return 0 if found.ok else 2
    waived = sum(map(len, found.waived.values()))
    how = "names, shapes and dtypes" if found.shapes_known else "names (no shards here)"
    print(
        f"{len(found.bound)} tensors bound, {waived} waived, {len(found.missing)} "
        f"missing, {len(found.wrong)} of another shape or dtype, {len(found.unused)} "
        f"unused; checked: {how}"
    )
    for reason, names in found.waived.items():
        print(f"  waived   {len(names)}: {reason}")
    for what, names in (("missing", found.missing), ("unused", found.unused)):
        for line in grouped(names):
            print(f"  {what:<8} {line}")
    wrong = [f"{name} {why}" for name, why in found.wrong.items()]
    for line in grouped(wrong):
        print(f"  wrong    {line}")
    if not found.ok:
        raise GlmcError(
            f"{arguments.weights} is not a checkpoint of {arguments.build}: "
            f"see the list above. Was the build compiled from this checkpoint's config?"
        )
    return 0
