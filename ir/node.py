"""The base of every record of the IR: immutable, without unknown fields."""

from pydantic import BaseModel, ConfigDict


class Node(BaseModel):
    """A frozen record with no unknown fields.

    Node classes that appear in the text form are written ``snake_name(field=value)``;
    see :mod:`glmc.ir.text`.
    """

    # A class's validator is built when its first record is: no model has every op.
    model_config = ConfigDict(
        frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False
    )
