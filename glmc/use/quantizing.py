"""Write a float checkpoint in a weight-only format: ``glmc quantize``.

It is compressed-tensors' pack-quantized (see :mod:`glmc.use.packing`), and for ChatGLM
with its own code that code's: of the linears of all layers (and with ``embeddings`` of
embedding and head) int8 codes, two to a byte with 4 bits, the even column in the high
nibble, and beside each ``weight`` a ``weight_scale`` with one scale per row. All else
stays as it is.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmc.backends.runtime.accounting import Account
from glmc.backends.runtime.folders import CheckpointHeaders, refuse_outside
from glmc.backends.runtime.tensor_info import size_in_bytes
from glmc.compile.accounting import account, needed
from glmc.compile.checkpoints import read_headers, told
from glmc.files.replacing import new_folder, refuse_taken, umask
from glmc.frontends.build.builder import TIED_HEAD
from glmc.frontends.build.config import with_sidecar
from glmc.frontends.build.source import Source, resolve_source
from glmc.frontends.frontend import LoadedModel, load_model
from glmc.ir.errors import (
    CheckpointMismatchError,
    NoCheckpointError,
    NotQuantizableError,
    OutputError,
    WeightsUnusableError,
)
from glmc.ir.lower import lower
from glmc.use.packing import described, matrices, packed

if TYPE_CHECKING:
    import torch

# What a model folder holds beside weights, config and index. No code.
_COPIED = ("*.json", "*.model", "*.txt", "*.jinja", "*LICENSE*", "NOTICE*")
_NOT_COPIED = ("config.json", "*.index.json")

_ROWS = 4096
"""Rows of a matrix that are quantised at once."""
_FILE = 2 << 30
"""Bytes of tensors that go into one file, but for a single tensor that is larger."""


@dataclass(frozen=True)
class Plan:
    """The plan of a quantisation: which tensors become codes, and which are copied."""

    source: Source
    headers: CheckpointHeaders
    bits: int
    group: int | None
    """Columns that share a scale; None: ChatGLM's own format, whose scales are of
    rows."""
    chosen: frozenset[str]
    """Tensors to quantise."""
    dropped: frozenset[str]
    """Copies of a quantised tensor, which readers tie to it."""
    config: Mapping[str, object]

    @property
    def total(self) -> int:
        """The bytes of all tensors to read."""
        infos = self.headers.tensors.values()
        return sum(int(size_in_bytes(i.dtype or "F32", i.shape or ())) for i in infos)


def quantize(
    given: str,
    out: Path,
    bits: int,
    *,
    group: int | None = None,
    embeddings: bool = False,
    variant: str | None = None,
) -> dict[str, Any]:
    """Write the quantised checkpoint to the folder ``out``, which appears whole.

    Memory is bounded, by a tensor and what is put into one file: tensors are read,
    quantised and written piece by piece. A progress bar goes to stderr where that is a
    terminal.

    Args:
        given: a model folder with a float checkpoint.
        out: a folder that does not exist yet.
        bits: 4 or 8.
        group: columns of a row that share a scale, 128 where it is left out; not for
            ChatGLM's own format.
        embeddings: quantise embedding and head too, in ChatGLM's own format.
        variant: the architecture's variant, where the config cannot tell.

    Returns:
        What was written, as plain data.

    Raises:
        GlmcError: when the checkpoint is not a sound float checkpoint of a model that
            that has linear maps, or ``out`` is taken.
    """
    refuse_taken(out)  # before the work, and once more when it is done
    plan = _plan(given, bits, group, embeddings, variant)
    with new_folder(out) as draft:
        written = _write_shards(plan, draft)
        _write_rest(plan, draft)
    return {
        "checkpoint": str(out),
        "bits": bits,
        "quantised": len(plan.chosen),
        "tensors": len(plan.headers.tensors) - len(plan.dropped) + len(plan.chosen),
        "bytes_read": plan.total,
        "bytes_written": written,
    }


def _plan(
    given: str, bits: int, group: int | None, embeddings: bool, variant: str | None
) -> Plan:
    source = resolve_source(given)
    floats = load_model(source, variant=variant)
    if floats.quantization is None:
        raise NotQuantizableError(
            f"{given}: the spec {floats.spec!r} reads no quantised checkpoints, so"
            " nothing could compile what would be written"
        )
    own = floats.quantization == "rows"
    if own and group is not None:
        raise NotQuantizableError(
            f"{given} is written in ChatGLM's own format, which has a scale for each"
            " row; leave --group out"
        )
    if embeddings and not own:
        raise NotQuantizableError(
            "compressed-tensors' format is of linear maps; leave --embeddings out"
        )
    headers = read_headers(source.folder)
    found = account(floats.model, lower(floats.model), headers.tensors)
    _check(given, floats, headers, found)
    if own:
        return _own_format(source, headers, found, bits, embeddings, variant)
    return _packed(floats, headers, found, bits, group or _GROUP)


_GROUP = 128


def _own_format(
    source: Source,
    headers: CheckpointHeaders,
    found: Account,
    bits: int,
    embeddings: bool,
    variant: str | None,
) -> Plan:
    """Plan ChatGLM's own format: what a config with ``quantization_bit`` needs."""
    sets = [
        f"quantization_bit={bits}",
        f"quantization_embeddings={json.dumps(embeddings)}",
    ]
    target = load_model(source, variant=variant, sets=sets[: 1 + embeddings])
    needs = needed(target.model, lower(target.model), headers.tensors)
    tied = found.waived.get(TIED_HEAD, []) if embeddings else []
    return Plan(
        source=source,
        headers=headers,
        bits=bits,
        group=None,
        chosen=frozenset(name for name, need in needs.items() if need.codes),
        dropped=frozenset(tied),
        config=target.config,
    )


def _packed(
    floats: LoadedModel,
    headers: CheckpointHeaders,
    found: Account,
    bits: int,
    group: int,
) -> Plan:
    """Plan compressed-tensors' format: of the matrices that ops can read as codes."""
    whole = lower(floats.model)
    chosen = {found.spelt.get(name, name) for name in matrices(whole, bits, group)}
    if not chosen:
        raise NotQuantizableError(
            f"{floats.source.where}: no matrix of the model's layers has rows of whole"
            f" groups of {group}; choose another --group"
        )
    left = {
        name
        for name, info in headers.tensors.items()
        if name not in chosen and name.endswith(".weight") and len(info.shape or ()) > 1
    }
    config = with_sidecar(floats.source)
    return Plan(
        source=floats.source,
        headers=headers,
        bits=bits,
        group=group,
        chosen=frozenset(chosen),
        dropped=frozenset(),
        config={**config, "quantization_config": described(bits, group, left)},
    )


def _check(
    given: str, loaded: LoadedModel, headers: CheckpointHeaders, found: Account
) -> None:
    """Refuse what is not a whole float checkpoint of the model its config describes."""
    bit = loaded.config.get("quantization_bit")
    if bit:
        raise NotQuantizableError(
            f"{given} is quantised already: its config says quantization_bit {bit};"
            " give the float checkpoint that it was made of"
        )
    if loaded.config.get("quantization_config"):
        raise NotQuantizableError(
            f"{given} is quantised already: its config has a quantization_config; give"
            " the float checkpoint that it was made of"
        )
    if headers.index_only:
        raise NoCheckpointError(f"{given} holds an index and none of its shards")
    if not found.ok:
        bad = [*found.missing, *found.wrong, *found.unused]
        counts = f"{len(found.missing)} tensors missing, {len(found.wrong)} of another"
        raise CheckpointMismatchError(
            f"{given} is no checkpoint of its own config: {counts} shape or dtype,"
            f" {len(found.unused)} unknown, the first is {bad[0]}. {found.fault or ''}"
        )


def _write_shards(plan: Plan, draft: Path) -> int:
    """Write the weights: an output file for each input file, or several for a large
    one; return their bytes."""
    files: list[tuple[Path, list[str]]] = []
    total = 0
    with _progress(plan.total) as advance:
        for file in plan.headers.files:
            for tensors in _in_pieces(_converted(plan, file, advance)):
                path = draft / f"part-{len(files)}"
                _save(tensors, path)
                total += sum(tensor.nbytes for tensor in tensors.values())
                files.append((path, list(tensors)))
    weight_map: dict[str, str] = {}
    for at, (path, names) in enumerate(files, 1):
        name = f"model-{at:05}-of-{len(files):05}.safetensors"
        name = "model.safetensors" if len(files) == 1 else name
        path.rename(draft / name)
        weight_map |= dict.fromkeys(names, name)
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(draft / "model.safetensors.index.json", index)
    return total


def _in_pieces(
    tensors: Iterator[tuple[str, "torch.Tensor"]],
) -> Iterator[dict[str, "torch.Tensor"]]:
    """Yield tensors together, as many as fit in a file of some size."""
    held: dict[str, torch.Tensor] = {}
    size = 0
    for name, tensor in tensors:
        if held and size + tensor.nbytes > _FILE:
            yield held
            held, size = {}, 0
        held[name] = tensor
        size += tensor.nbytes
    if held:
        yield held


def _save(tensors: Mapping[str, "torch.Tensor"], path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path, metadata={"format": "pt"})
    except SafetensorError as error:  # what it makes of the system's refusals
        raise OutputError(
            f"{path.parent.parent / path.name} cannot be written ({error}); see to the"
            " space there, or choose another -o."
        ) from None
    path.chmod(0o666 & ~umask())  # it was made for its owner alone


def _converted(
    plan: Plan, file: str, advance: Any
) -> Iterator[tuple[str, "torch.Tensor"]]:
    """Yield the tensors of one file, those that were chosen as codes and scale."""
    from glmc.backends.runtime.checkpoint import open_shard
    from glmc.backends.runtime.faults import WeightsError

    every = plan.headers.tensors.items()
    held = {name: info for name, info in every if info.file == file}
    shard = open_shard(plan.source.folder / file, held)
    for name in sorted(held):
        try:
            tensor = shard.read(name)
        except WeightsError as error:
            raise WeightsUnusableError(str(error)) from error
        if name in plan.chosen and plan.group is not None:
            yield from packed(tensor, plan.bits, plan.group, name)
        elif name in plan.chosen:
            codes, scale = quantize_rows(tensor, plan.bits, name)
            yield name, codes
            yield f"{name}_scale", scale
        elif name not in plan.dropped:
            yield name, tensor.clone()
        advance(tensor.nbytes)
    shard.close()


def quantize_rows(
    weight: "torch.Tensor", bits: int, name: str
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Return (int8 codes [O, I], or [O, I / 2] with 4 bits, scale [O]) of ``weight``
    [O, I].

    ``scale = max |row| / (2^(bits-1) - 1)``, rounded to the weight's dtype, and with it
    ``code = round(weight / scale)``, in fp32. A row of zeros has scale 0.

    Raises:
        GlmcError: when a weight is not finite, or a scale too large for the dtype.
    """
    import torch

    most = 2 ** (bits - 1) - 1
    codes = torch.empty(weight.shape, dtype=torch.int8)
    scale = torch.empty(weight.shape[:-1], dtype=weight.dtype)
    for begin in range(0, len(weight), _ROWS):
        rows = slice(begin, begin + _ROWS)
        part = weight[rows].float()
        scale[rows] = part.abs().amax(-1) / most
        step = scale[rows].float()[..., None]
        if not torch.isfinite(step).all():
            raise NotQuantizableError(
                f"{name} holds weights that are not finite, or too large for a scale in"
                f" {str(weight.dtype).removeprefix('torch.')}; it cannot be quantised"
            )
        steps = (part / step).round().nan_to_num(0.0).clamp(-most, most)
        codes[rows] = steps.to(torch.int8)
    if bits == 4:
        codes = (codes[..., ::2] << 4) | (codes[..., 1::2] & 0xF)
    return codes, scale


def _write_rest(plan: Plan, draft: Path) -> None:
    """Write config.json, and copy the files of the tokenizer."""
    folder = plan.source.folder
    for path in sorted(folder.iterdir()):
        wanted = any(path.match(pattern) for pattern in _COPIED)
        if not wanted or any(path.match(pattern) for pattern in _NOT_COPIED):
            continue
        if path.is_file():
            with told():
                refuse_outside(folder, path, path.name)
            shutil.copyfile(path, draft / path.name)
    _write_json(draft / "config.json", plan.config)


def _write_json(path: Path, value: object) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """Show a bar of bytes on stderr where that is a terminal; yield the function that
    advances it."""
    try:
        from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        yield lambda _: None
        return
    with tqdm(
        total=total, desc="quantising", unit="B", unit_scale=True, disable=None
    ) as bar:
        yield bar.update
