"""Say in a sentence how a model and a checkpoint disagree about quantised weights.

Needs no torch: names, shapes and dtypes come from headers, or names from an index.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

#: Dtypes of float weights, by the names safetensors gives them.
FLOATS = ("F64", "F32", "F16", "BF16")


#: How names of codes end, where they are not called as the weights would be.
CODES = (".qweight", ".weight_packed")
#: The dtype of indices, which may be stored with fewer bits.
INDICES = "I64"
#: A dtype of scales: powers of two, as some float8 checkpoints hold them.
EXPONENTS = "F8_E8M0"
#: Bytes that some checkpoints give another name.
BYTES = ("U8", "I8", EXPONENTS)
#: Fields of quantised weights whose tensors may lack dimensions of one, or have more.
LOOSE = ("scale", "factor")
#: Names of the scale of a whole matrix: by the first its values are multiplied, by the
#: second they are divided.
FACTORS = ("weight_scale_2", "weight_global_scale")


class Need(NamedTuple):
    """The requirements of a tensor: its shape, where known, and the dtype of its codes
    or indices, or None where it is to be floats. The dimensions of scales may lack
    ones."""

    shape: tuple[int, ...] | None
    codes: str | None
    scale: bool = False

    def takes(self, dtype: str) -> bool:
        """Tells whether a tensor of `dtype` will do."""
        if self.codes == "U8":
            return dtype in BYTES
        if self.codes == INDICES:
            return dtype in (INDICES, "I32")
        if self.codes:
            return dtype == self.codes
        return dtype in FLOATS or (self.scale and dtype == EXPONENTS)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Tells whether a tensor of `shape` will do."""
        if self.shape is None:
            return True
        if self.scale:
            return fits(shape, self.shape)
        return shape == self.shape


def fits(found: tuple[int, ...], needed: tuple[int, ...]) -> bool:
    """Tells whether scales are as many as needed: one may be published as `[]` or
    `[1]`, and those of rows as `[rows]` or `[rows, 1]`."""
    return [n for n in found if n != 1] == [n for n in needed if n != 1]


def float_name(codes: str) -> str:
    """Returns the name of weights where they are stored as floats, from their codes'
    name."""
    for ending in CODES:
        if codes.endswith(ending):
            return f"{codes.removesuffix(ending)}.weight"
    return codes.removesuffix("_blocks")


class Found(Protocol):
    """A tensor as its header describes it; an index alone knows neither."""

    @property
    def shape(self) -> tuple[int, ...] | None: ...

    @property
    def dtype(self) -> str | None: ...


def storage_fault(
    needs: Mapping[str, Need], headers: Mapping[str, Found]
) -> str | None:
    """Returns why weights are not stored as the model was compiled for, and what to do
    about it; None where they are, as far as this can tell."""
    both = [
        (name, need, headers[name]) for name, need in needs.items() if name in headers
    ]
    met = any(need.codes and found.dtype == need.codes for _, need, found in both)
    for name, need, found in both:
        dtype = found.dtype or _dtype_by_names(name, need, headers)
        if dtype is None or (need.codes in (None, INDICES) and need.takes(dtype)):
            continue
        bits = _bits(need, found)
        if need.codes == dtype == "I8":
            if bits == (8, 8) or found.shape is None:
                continue
            return _wrong_bits(name, 12 - bits[1], bits[1])
        if need.codes == "I8" and dtype in FLOATS:
            return _float_files(name, bits[0], met)
        if need.codes is None and dtype == "I8":
            return _codes_in_files(name, bits[1] if found.shape else None, met)
        if not need.takes(dtype):
            return _other_codes(name, need.codes, dtype)
    return _other_factor(needs, headers) or _other_names(needs, headers)


def _other_factor(
    needs: Mapping[str, Need], headers: Mapping[str, Found]
) -> str | None:
    """Finds scales of whole matrices that are another format's, or of two formats."""
    for name in needs:
        stem, _, own = name.rpartition(".")
        if own not in FACTORS:
            continue
        other = f"{stem}.{FACTORS[1 - FACTORS.index(own)]}"
        if other not in headers:
            continue
        if name in headers:
            return (
                f"The files hold the scale of a matrix in two formats ({name} and"
                f" {other}), of which one multiplies and the other divides; keep the"
                " one that goes with the codes."
            )
        return (
            f"The files hold {other}, and the config describes a format with {name};"
            " one multiplies and the other divides: compile the model again from the"
            " config.json of this checkpoint."
        )
    return None


def _other_names(needs: Mapping[str, Need], headers: Mapping[str, Found]) -> str | None:
    """Finds by names alone that files and config disagree, for formats that have names
    of their own for codes."""
    for name, need in needs.items():
        if name in headers:
            continue
        plain = float_name(name)
        if need.codes and plain in headers:
            return (
                f"The config says that weights are stored as codes ({name}), and the"
                f" files hold floats ({plain}); compile the model again with"
                " --set quantization_config=null, or where only some weights are"
                " floats with --disable keep-quantized. Codes that compressed-tensors"
                ' packs are made of floats by load(…, weights="int4"), or "int8".'
            )
        stem = name.removesuffix(".weight")
        coded = next((stem + end for end in CODES if stem + end in headers), None)
        if coded:
            return (
                f"The files hold codes ({coded}), and the config says that weights are"
                " floats; compile the model again from the config.json of this"
                " checkpoint."
            )
    return None


def _dtype_by_names(name: str, need: Need, headers: Mapping[str, Found]) -> str | None:
    """Guesses the dtype of a weight from an index: quantised ones have a scale beside
    them."""
    if name + "_scale_inv" in headers:
        return "F8_E4M3"
    if name + "_scale" in headers:
        return need.codes or "I8"
    return "F32" if need.codes == "I8" else None


def _bits(need: Need, found: Found) -> tuple[int, int]:
    """Returns (bits the model takes codes to have, bits the files' codes have), by
    widths.

    Float rows, and int8 codes, are as wide as the matrix, int4 codes half of that.
    """
    wide, given = (need.shape or (1,))[-1], (found.shape or (1,))[-1]
    return (4 if given == 2 * wide else 8), (4 if wide == 2 * given else 8)


def _wrong_bits(name: str, need: int, given: int) -> str:
    other = "two codes to a byte" if given == 4 else "one code to a byte"
    return (
        f"The files hold int{given} weights ({name}: {other}) and would be read as"
        f" int{need}; compile the model again with --set quantization_bit={given}."
    )


def _float_files(name: str, bits: int, met: bool) -> str:
    if met:
        return (
            f"{name} holds floats in the files while the layers are quantised; compile"
            " the model again with --set quantization_embeddings=false."
        )
    return (
        f"The config sets quantization_bit, and the files hold float weights ({name}"
        " has no scale); compile the model again with --set quantization_bit=0, or"
        f" write quantised files with: glmc quantize CHECKPOINT -o OUT --bits {bits}."
    )


def _codes_in_files(name: str, bits: int | None, met: bool) -> str:
    if met:
        return (
            f"{name} is quantised in the files like the layers; compile the model again"
            " with --set quantization_embeddings=true."
        )
    return (
        f"The files hold int{bits or '8 or int4'} weights ({name} and its scales), and"
        " the config says that they are floats; compile the model again with"
        f" --set quantization_bit={bits or '8, or =4'}."
    )


def _other_codes(name: str, codes: str | None, dtype: str) -> str:
    return (
        f"{name} is stored as {dtype}, and the config says {codes or 'floats'}; compile"
        " the model again from the config.json of this checkpoint."
    )
