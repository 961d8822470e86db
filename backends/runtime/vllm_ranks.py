"""A build that is dealt to the processes of vLLM's tensor-parallel group."""

from typing import Any, ClassVar

import torch

from .dealt import of_rank
from .ranks import Ranks, belong, current
from .recipes import Recipe
from .vllm_interface import gathered, own_rank, summed


class EngineRanks(Ranks):
    """A process of vLLM's tensor-parallel group, whose collectives it uses."""

    def __init__(self) -> None:
        super().__init__(*own_rank())

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the sum of the group's `x`, which vLLM may make in its place."""
        total: torch.Tensor = summed(x.clone(memory_format=torch.contiguous_format))
        return total

    def gather(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Returns the group's `x`, in the order of its ranks."""
        return list(gathered(x[None]).unbind(0))


class Dealt:
    """Adds to a `CausalLM` that its build is dealt to ranks; a mixin."""

    #: The ranks that the build was compiled for.
    count: ClassVar[int]

    def __init__(self, *, vllm_config: Any, prefix: str = ""):
        # It refuses another number of ranks.
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        belong(EngineRanks())

    def own_part(self, recipe: Recipe) -> Recipe:
        """Returns the recipe of what this rank has of a parameter."""
        return of_rank(recipe, current().rank)
