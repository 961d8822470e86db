"""The base class of an emitted decoder that several ranks compute together."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from types import ModuleType
from typing import Any, ClassVar

import torch

from .causal_lm import CausalLM
from .modules import Block
from .ranks import current, digest
from .recipes import Bind
from .sampling import Sampler


class RankedLM(CausalLM):
    """A decoder of which this process has a part; an emitted `Model` gives the part.

    All ranks call it with the same arguments, and get the same answers. Where it has
    stages, a call goes through them one after the other.
    """

    #: The first layer of each stage; () where every rank has all layers.
    stages: ClassVar[tuple[int, ...]] = ()
    #: Parameters that only the first stage reads, only the last, only those two.
    of_first: ClassVar[tuple[str, ...]] = ()
    of_last: ClassVar[tuple[str, ...]] = ()
    of_ends: ClassVar[tuple[str, ...]] = ()

    def gathered(self, logits: torch.Tensor, ops: ModuleType) -> torch.Tensor:
        """Returns logits [B, T, V] of the whole vocabulary, where `run` gives those of
        this rank's part of it; an emitted `Model` gives this one."""
        return logits

    def whole(
        self, logits: torch.Tensor | None, like: torch.Tensor, ops: ModuleType
    ) -> torch.Tensor:
        """Returns the last stage's logits [B, T, V] on all ranks."""
        if logits is not None:
            logits = self.gathered(logits, ops)
        if not self.stages:
            assert logits is not None
            return logits
        if logits is None:
            logits = like.new_empty(*like.shape, self.vocab_size, dtype=self.dtype)
        return current().of_last(logits)

    def choose(
        self,
        logits: torch.Tensor | None,
        like: torch.Tensor,
        sampler: Sampler,
        ops: ModuleType,
    ) -> torch.Tensor:
        """Chooses ids int64 [R], the same on all ranks, for the last of `logits`
        [R, T, V] or of this rank's part of the vocabulary; None in other stages than
        the last.

        A greedy choice needs of every rank its best logit and which token that is; a
        draw is the first rank's.
        """
        ids = (
            like.new_empty(len(like))
            if logits is None
            else self._chosen(logits[:, -1:], sampler, ops)
        )
        return current().of_last(ids) if self.stages else ids

    def _chosen(
        self, logits: torch.Tensor, sampler: Sampler, ops: ModuleType
    ) -> torch.Tensor:
        partial = logits.shape[-1] < self.vocab_size
        if partial and sampler.plainly_greedy:
            return _best_of_all(logits[:, 0], self.vocab_size)
        if partial:
            logits = self.gathered(logits, ops)
        return current().of_first(sampler(logits[:, 0]))

    # --- stages -----------------------------------------------------------------------

    def held(self, binds: Sequence[Bind]) -> Sequence[Bind]:
        """Forgets the layers and the parameters of other stages, and returns the
        bindings of those that are left."""
        if not self.stages:
            return binds
        here, mine = current(), self._range()
        layers = self.get_submodule("layers")
        for at, _ in enumerate(list(layers.children())):
            if at not in mine:
                layers.register_module(str(at), Block())
        gone = set(() if here.stage == 0 else self.of_first)
        gone |= set(() if here.is_last else self.of_last)
        gone |= set(() if here.is_last or here.stage == 0 else self.of_ends)
        for name in gone:
            delattr(self, name)
        return [bind for bind in binds if self._has(bind.path, mine, gone)]

    @property
    def stage(self) -> int:
        """The number of this process's stage."""
        return current().stage

    @property
    def is_last(self) -> bool:
        """True where this stage has the head."""
        return current().is_last

    def _range(self) -> range:
        """Returns the layers of this process's stage."""
        ends = (*self.stages, len(list(self.get_submodule("layers").children())))
        stage = current().stage
        return range(ends[stage], ends[stage + 1])

    @staticmethod
    def _has(path: str, layers: range, gone: set[str]) -> bool:
        owner, _, rest = path.partition(".")
        number = rest.partition(".")[0]
        return int(number) in layers if owner == "layers" else path not in gone

    def of_stage(self, pairs: Iterable[Any]) -> Iterator[Any]:
        """Yields what belongs to the layers of this stage, of one for each layer."""
        mine = self._range()
        return islice(pairs, mine.start, mine.stop)

    def received(
        self, ids: torch.Tensor, *sizes: tuple[int, ...]
    ) -> list[torch.Tensor]:
        """Returns what the stage before hands on: a value [B, T, *size] for each size,
        in the dtype of the model."""
        return [
            current().receive(ids.new_empty(*ids.shape, *size, dtype=self.dtype))
            for size in sizes
        ]

    def handed_on(self, *values: torch.Tensor) -> None:
        """Gives the next stage what it begins with; there are no logits here."""
        for value in values:
            current().send(value)

    def generate(self, input_ids: Any, *args: Any, **options: Any) -> Any:
        """Does what that of `CausalLM` does. Raises RanksError where ranks were given
        other prompts; ValueError for what would end the generation of some ranks and
        not of others: `max_time`, `stopping_criteria`, `logits_processor`, `draft`."""
        for name in ("max_time", "stopping_criteria", "logits_processor", "draft"):
            if options.get(name) is not None:
                raise ValueError(
                    f"{name} may decide otherwise on every rank, and then none could go"
                    " on; leave it out where several ranks generate."
                )
        current().same("prompt", digest([("prompt", _bytes(input_ids))]))
        return super().generate(input_ids, *args, **options)


def _bytes(prompt: torch.Tensor | str | Sequence[str]) -> bytes:
    if isinstance(prompt, torch.Tensor):
        return repr(prompt.tolist()).encode()
    return repr(prompt).encode()


def _best_of_all(logits: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Returns the token with the highest logit, of equal ones the first, given those of
    this rank's part [R, N]."""
    ranks, size = current(), logits.shape[-1]
    begin = ranks.rank * size
    best, at = logits[:, : vocabulary - begin].float().max(-1)
    # Of equal logits a part's first one, as argmax has it; ids are exact in float64.
    at = logits[:, : vocabulary - begin].argmax(-1) + begin
    pair = torch.stack((best.double(), at.double()), -1)
    every = torch.stack(ranks.gather(pair))
    of = every[..., 0].argmax(0, keepdim=True)
    return every[..., 1].gather(0, of)[0].long()
