"""Let float matrices become codes when they are loaded."""

from glmc.ir.graph import Graph, Parameter, Program
from glmc.ir.leaves import RoundedGroups, Tensor
from glmc.ir.ops import MoeExperts
from glmc.ir.passes.coded import Packing, Refusal, split
from glmc.ir.passes.quantized import TAKES
from glmc.ir.recipe import Recipe, rebuilt


def rounded(program: Program, bits: int, group: int, packing: Packing) -> Program:
    """Return a lowered program whose layers multiply by rounded matrices.

    Those of a layer's matrices are rounded that are stored as the weight of a module,
    that only ops read which take codes, and whose codes the target packs. The others,
    embedding and head stay floats.

    Args:
        program: as :func:`~glmc.ir.lower.lower` gives it.
        bits: of a code, 4 or 8.
        group: neighbouring columns of a row that share a scale.
        packing: says which rows of codes the target cannot read.
    """

    def leaf(tensor: Tensor) -> Recipe:
        if len(tensor.stored) != 2 or not tensor.name.endswith(".weight"):
            raise Refusal
        return RoundedGroups.model_validate(
            {"codes": tensor, "bits": bits, "group": group}
        )

    def change(graph: Graph, param: Parameter) -> Parameter:
        readers = [op for op in graph.ops if param.name in op.params]
        if not all(type(op) in (*TAKES, MoeExperts) for op in readers):
            return param
        try:
            recipe = rebuilt(param.recipe, leaf)
            split(recipe, packing)
        except Refusal:
            return param
        return param.model_copy(update={"recipe": recipe})

    blocks = tuple(
        block.replace(params=tuple(change(block, param) for param in block.params))
        for block in program.blocks
    )
    return program.model_copy(update={"blocks": blocks})
