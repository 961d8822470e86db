"""Run the commands of the command line."""

import argparse
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from glmc.ir.errors import (
    OptionsDisagreeError,
    OptionValueError,
)
from glmc.look.builds import Build
from glmc.look.opening import open_build, switched_off, tell
from glmc.shell.terminal import show

if TYPE_CHECKING:  # a quarter of what `inspect` imports, and it needs none of it
    from glmc.compile.driver import Compilation, Options
    from glmc.frontends.frontend import LoadedModel


def compile_command(arguments: argparse.Namespace) -> int:
    """Run ``glmc compile``."""
    if arguments.from_ir:
        from glmc.compile.dumps import rebuild_command

        return rebuild_command(arguments)
    if not arguments.source:
        raise OptionsDisagreeError(
            "nothing to compile: name a config.json, a model folder or a hub id, or a "
            "dump with --from-ir FILE."
        )
    from glmc.backends.ledger import calls_of_torch, fallen_back
    from glmc.backends.target import DEFAULT
    from glmc.compile.driver import Options
    from glmc.compile.writing import name_note, refuse_name, write_build

    refuse_name(arguments.out)
    options = Options(
        target=arguments.target or DEFAULT,
        engine=arguments.engine,
        codes=int(arguments.codes[3:]) if arguments.codes else None,
        group=arguments.group,
        variant=arguments.variant,
        spec=arguments.spec,
        sets=tuple(arguments.sets),
        ignore_keys=tuple(arguments.ignore_key),
        disable=tuple(arguments.disable),
        tensor_parallel=arguments.tensor_parallel,
        pipeline_parallel=arguments.pipeline_parallel,
        expert_parallel=arguments.expert_parallel,
        strict=arguments.strict,
        verify_passes=arguments.verify_passes,
        kernels=tuple(arguments.kernels),
        aot=arguments.aot,
        aot_dtypes=arguments.aot_dtype,
        revision=arguments.revision,
        endpoint=arguments.endpoint,
        offline=arguments.offline,
        timeout=arguments.timeout,
    )
    compiled = _compiled(arguments, options)
    tell(compiled.loaded.source.note)
    tell(_unverified(compiled.loaded))
    tell(switched_off(compiled.loaded))
    tell(name_note(arguments.out))
    write_build(arguments.out, compiled.files, force=arguments.force)
    entries = [entry for stage in compiled.stages for entry in stage.ledger]
    applied = sum(entry.status == "applied" for entry in entries)
    missing = fallen_back(compiled.placed)
    facts: dict[str, Any] = {
        "build": str(arguments.out),
        "model": compiled.loaded.model.name,
        "target": options.target,
        "spec": compiled.loaded.spec,
        "spec_verified": compiled.loaded.verified,
        "layers": compiled.loaded.model.layers,
        "fusions_applied": applied,
        "verified": compiled.verified,
        "own_kernels": dict(compiled.own),
        "without_kernel": missing,
        "torch_ops_of_a_token": calls_of_torch(compiled.placed),
    }
    if compiled.ahead:
        facts["aot"] = compiled.ahead.rows
    if arguments.json:
        print(json.dumps(facts, indent=2))
        return 0
    print(
        f"{arguments.out}: {facts['model']}, {facts['layers']} layers, "
        f"{applied} fusions applied; see: glmc inspect {arguments.out}"
    )
    if missing:
        ops, why = ", ".join(missing), f"glmc inspect {arguments.out} --ledger"
        made = f"{calls_of_torch(compiled.placed)} ops of a token"
        machine = compiled.target.machine
        print(f"on {machine} {made} run as torch code: {ops}; why: {why}")
    if compiled.verified:
        worst = max(compiled.verified.values())
        print(f"{len(compiled.verified)} stages agree, worst difference {worst:.2g}")
    for op, difference in compiled.own.items():
        print(f"your {op} agrees with the reference, worst difference {difference:.2g}")
    if compiled.ahead:
        print(f"\n{compiled.ahead.table}")
    return 0


def _compiled(arguments: argparse.Namespace, options: "Options") -> "Compilation":
    """Compile; with ``--read`` by a spec that is read from published code."""
    from glmc.compile.driver import compile_files

    if not arguments.read:
        return compile_files(arguments.source, options)
    if arguments.spec:
        raise OptionsDisagreeError("--read finds a spec and --spec names one; choose.")
    from glmc.prove.texts.command import reading_spec

    with reading_spec(arguments.source, options.hub) as (path, certificate):
        found = replace(options, spec=path, read=certificate)
        return compile_files(arguments.source, found)


def _unverified(loaded: "LoadedModel") -> str | None:
    """Return the note on a spec that no test compares with another implementation, or
    on what one that was compared does not do."""
    if loaded.caveat is not None:
        return f"Of the spec {loaded.spec!r}: {loaded.caveat}."
    if loaded.unverified is None:
        return None
    how = "glmc verify BUILD --weights CHECKPOINT"
    if loaded.model.is_encoder or loaded.model.scores:  # which verify does not take
        how = "compare what model(ids, mask) answers with transformers, on a few texts"
    return (
        f"The spec {loaded.spec!r} is unverified: {loaded.unverified}. Before you trust"
        f" its builds: {how}"
    )


def inspect_command(arguments: argparse.Namespace) -> int:
    """Run ``glmc inspect``."""
    text, facts = _inspected(open_build(arguments.build, arguments), arguments)
    if arguments.json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        show(text)
    return 0


def _inspected(build: Build, arguments: argparse.Namespace) -> tuple[str, Any]:
    """Return the requested view, as text and as plain data."""
    from glmc.look import inspecting, views

    if arguments.stage:
        dump = build.dump(arguments.stage)
        return dump, {"stage": arguments.stage, "text": dump}
    if arguments.stages:
        dumps = {name: build.dump(name) for name in build.stages}
        text = "\n".join(f"# {name}\n{dump}" for name, dump in dumps.items())
        return text, {"stages": dumps}
    if arguments.ledger:
        rows = [row.written() for row in build.ledger]
        placed = [row.model_dump() for row in build.placements]
        served = [row.model_dump() for row in build.served]
        facts = {"ledger": rows, "backend": placed}
        return ledger_of(build), facts | ({"engine": served} if served else {})
    if arguments.diff:
        graphs = views.diff_facts(build, *arguments.diff)
        facts = {"stages": arguments.diff, "graphs": graphs}
        return views.diff_text(build, *arguments.diff), facts
    if arguments.op:
        facts = views.op_facts(build, arguments.op)
        return views.op_text(facts), facts
    if arguments.upstream or arguments.downstream:
        from glmc.look import flows

        up = arguments.upstream
        direction: flows.Direction = "upstream" if up else "downstream"
        facts = flows.flow_facts(build, up or arguments.downstream, direction)
        return flows.flow_text(facts), facts
    if arguments.weights:
        rows = views.weight_facts(build)
        return views.weights_text(rows), {"weights": rows}
    if arguments.trace:
        from glmc.look import tracing

        facts = tracing.trace(build, arguments.trace)
        return tracing.trace_text(facts), facts
    if arguments.kernels:
        from glmc.look import paper, roofline
        from glmc.look.devices import device

        call = roofline.call_of(arguments.batch, arguments.context, arguments.tokens)
        on = device(arguments.kernels, "--kernels")
        found = paper.launches(build, call, on)
        return paper.text(found, call, on), paper.facts(found, call, on)
    if arguments.cost:
        from glmc.look import roofline
        from glmc.look.devices import device

        call = roofline.call_of(arguments.batch, arguments.context, arguments.tokens)
        on = device(arguments.cost)
        ranks = arguments.ranks
        shown = roofline.text(build, call, on, ranks)
        return shown, roofline.facts(build, call, on, ranks)
    facts = inspecting.summary(build, _lengths(arguments.lengths))
    if arguments.keys:
        keys = {"config_keys": facts["config_keys"]}
        return inspecting.keys_text(facts, build.manifest["config"]), keys
    parts = [
        inspecting.summary_text(facts),
        build.dump(list(build.stages)[-1]).rstrip(),
        ledger_of(build),
        "more: --stage, --diff, --op, --upstream, --downstream, --weights, --keys,"
        " --trace, --cost, --kernels, --json; glmc explain",
    ]
    return "\n\n".join(parts), facts


def ledger_of(build: Build) -> str:
    """Return the ledger of fusions, and what runs their ops on the target's machine, as
    text."""
    from glmc.look.inspecting import ledger_text, placements_text

    on = build.target
    parts = (
        ledger_text(build.ledger, on.units),
        placements_text(build.placements, f"on {on.machine}"),
        placements_text(build.served, "inside vLLM"),
    )
    return "\n\n".join(filter(None, parts))


def _lengths(text: str | None) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")] if text else []
    except ValueError:
        found = [0]
    if any(length < 1 for length in found):
        raise OptionValueError(
            f"--lengths {text}: expected lengths such as 4096,131072."
        )
    return found


def configs_command(arguments: argparse.Namespace) -> int:
    """Run ``glmc configs``."""
    from glmc.prove import catalogue

    if arguments.json:
        facts = [entry.facts for entry in catalogue.entries()]
        print(json.dumps(facts, indent=2))
    else:
        print(catalogue.table())
    return 0


def quantize_command(arguments: argparse.Namespace) -> int:
    """Run ``glmc quantize``."""
    from glmc.look.inspecting import size
    from glmc.use.quantizing import quantize

    facts = quantize(
        arguments.checkpoint,
        arguments.out,
        arguments.bits,
        group=arguments.group,
        embeddings=arguments.embeddings,
        variant=arguments.variant,
    )
    if arguments.json:
        print(json.dumps(facts, indent=2))
        return 0
    before, after = size(facts["bytes_read"]), size(facts["bytes_written"])
    print(
        f"{arguments.out}: {facts['quantised']} matrices in {arguments.bits} bits, "
        f"{before} became {after}; see: glmc compile {arguments.out}"
    )
    return 0
