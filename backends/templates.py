"""Read the templates; compiled once, and kept where Python keeps bytecode."""

import os
import sys
from functools import cache
from importlib.util import cache_from_source
from pathlib import Path
from pickle import UnpicklingError
from tempfile import NamedTemporaryFile

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.bccache import Bucket, BytecodeCache


class TemplateCache(BytecodeCache):
    """A cache of compiled templates beside the bytecode of this module, if that is
    writable.

    Jinja compares a checksum of the template's text, so nothing stale is ever used.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(cache_from_source(__file__)).parent

    def load_bytecode(self, bucket: Bucket) -> None:
        """Fill a bucket from its file, if there is one that can be read."""
        try:
            bucket.bytecode_from_string(self._file(bucket).read_bytes())
        except (OSError, EOFError, ValueError, UnpicklingError):
            bucket.reset()

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Write a bucket's file, whole or not at all; not to be able to is no harm."""
        if sys.dont_write_bytecode:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=self.folder, delete=False) as file:
                bucket.write_bytecode(file)
            os.replace(file.name, self._file(bucket))
        except OSError:
            return

    def _file(self, bucket: Bucket) -> Path:
        return self.folder / f"{bucket.key}.{sys.implementation.cache_tag}.jinja"


@cache
def environment() -> Environment:
    """Return the one jinja2 environment of all templates: ``#%`` begins a control
    line."""
    return Environment(
        loader=PackageLoader("glmc.codegen_templates", ""),
        bytecode_cache=TemplateCache(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        line_statement_prefix="#%",
        autoescape=False,
    )
