"""The base class of an emitted decoder: all that `Layer` and `Model` do not spell
out."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar, NamedTuple

import torch

from .cache import Cache
from .checks import check_ids
from .decoder import Decoder
from .endings import listed
from .faults import WeightsError
from .generation import generate
from .inputs import check_cache, check_keep, positions, read_mask
from .modules import BaseModel, Block, item, operations
from .prompts import Prompt, streamed
from .sampling import Sampler
from .settings import settle
from .state import CACHE_DTYPES, Declared, From, KeysValues, PerToken
from .strict_json import MEGABYTE, read_object
from .wishes import defaults


class Output(NamedTuple):
    """The result of a forward pass: by attribute, index, name, or unpacked."""

    logits: torch.Tensor
    past_key_values: Cache | None = None

    def __getitem__(self, key: Any) -> Any:
        return item(self, key)


class CausalLM(BaseModel):
    """A decoder with a language-model head.

    An emitted `Model` gives the class attributes and `run`; here is everything that
    does not depend on the architecture: masks, positions, cache, generation.
    """

    #: Logits of a token, where they are not one for each id.
    answers: ClassVar[int | None] = None
    eos_token_id: ClassVar[tuple[int, ...]] = ()
    pad_token_id: ClassVar[int | None] = None
    #: Rows of a prefix encoder: keys and values that stand before every sequence.
    learned: ClassVar[int] = 0
    #: Positions from which on all keys are turned otherwise: `generate` reads the whole
    #: context again where it reaches one.
    turns_at: ClassVar[tuple[int, ...]] = ()
    #: Tokens of the longest texts that the model was made for, where more can be read.
    trained_positions: ClassVar[int | None] = None
    #: How positions follow from the ids: (given, cache, ids, max_positions) -> pos.
    scheme: ClassVar[Callable[..., torch.Tensor]] = staticmethod(positions)

    #: What generation_config.json beside the weights asks for, by `wishes.defaults`.
    generation_defaults: Mapping[str, Any] = MappingProxyType({})
    #: What keys and values are kept as; None: the dtype of the model.
    cache_dtype: torch.dtype | None = None
    _learned: torch.Tensor | None = None
    _decoder: Decoder | None = None
    _told_length = False

    @property
    def layer_states(self) -> list[Mapping[str, Declared]]:
        """The states of each layer, as its class declares them."""
        # A layer may be wrapped in modules of others, such as an adapter's.
        layers = (layer.modules() for layer in self.get_submodule("layers").children())
        blocks = (next(m for m in layer if isinstance(m, Block)) for layer in layers)
        return [block.states for block in blocks]

    @property
    def decoder(self) -> Decoder:
        """The decoder of `generate`; `decoder.forget()` frees what it keeps."""
        if self._decoder is None:
            self._decoder = Decoder()
        return self._decoder

    @property
    def decode_path(self) -> str:
        """The way the last generation decoded: with a graph replay a token, or eagerly
        and why."""
        return self.decoder.path

    def described(self, folders: Sequence[Path]) -> None:
        """Reads the generation defaults from generation_config.json, in the last of
        these folders that has one. Raises WeightsError where it is no such file."""
        for folder in folders:
            file = folder / "generation_config.json"
            if file.is_file():
                config = read_object(file, MEGABYTE, finite=False)
                try:
                    self.generation_defaults = defaults(config, str(file))
                except ValueError as error:
                    raise WeightsError(str(error), "config") from None

    def __getstate__(self) -> dict[str, Any]:
        """Drops the decoder, since copies and pickles record their own steps, and the
        engine, which computes with these very weights."""
        return {**self.__dict__, "_decoder": None, "engine": None}

    def compute(
        self,
        ids: torch.Tensor,
        pos: torch.Tensor,
        cache: Cache,
        keep: int,
        ops: ModuleType,
    ) -> torch.Tensor:
        """Returns what `run` does, by the engine where that serves."""
        engine = self.engine
        if engine is None or self.ops or not engine.serves(self, ids, cache):
            return self.run(ids, pos, cache, keep, ops)
        return engine.run(self, ids, pos, cache, keep)

    def run(
        self,
        ids: torch.Tensor,
        pos: torch.Tensor,
        cache: Cache,
        keep: int,
        ops: ModuleType,
    ) -> torch.Tensor:
        """Returns logits [B, keep or T, V] of `ids` [B, T] at `pos` [B, T]; fills the
        cache.

        An emitted `Model` gives this one.
        """
        raise NotImplementedError

    def whole(
        self, logits: torch.Tensor, like: torch.Tensor, ops: ModuleType
    ) -> torch.Tensor:
        """Returns logits of the whole vocabulary, where `run` gives those of a part;
        `like` [B, T] has a number for each of them."""
        return logits

    def choose(
        self,
        logits: torch.Tensor,
        like: torch.Tensor,
        sampler: Sampler,
        ops: ModuleType,
    ) -> torch.Tensor:
        """Chooses ids int64 [R] for the last of `logits` [R, T, V], as `run` or a call
        gives them; `like` int64 [R, T] has a number for each."""
        return sampler(logits[:, -1])

    def encode_prefix(self, rows: torch.Tensor, ops: ModuleType) -> torch.Tensor:
        """Returns the states that `Cache.begin_with` takes, for `rows` [1, learned].

        An emitted `Model` with a prefix encoder gives this one.
        """
        raise NotImplementedError

    def keep_cache_as(self, name: str) -> None:
        """Keeps keys and values of new caches as "int8" (codes, and a scale for each
        head of each token) or "fp8_e4m3". Raises ValueError for another name, and
        where this model's layers keep anything else of each token, or no keys."""
        if name not in CACHE_DTYPES:
            raise ValueError(
                f"cache_dtype={name!r} is none that a cache can have; give one of "
                f"{', '.join(CACHE_DTYPES)}, or leave it out for the model's dtype."
            )
        kept = {
            f"{key} ({type(declared).__name__})": type(declared)
            for layer in self.layer_states
            for key, declared in layer.items()
            if not isinstance(declared, From)
        }
        other = [key for key, kind in kept.items() if kind is PerToken]
        if other or KeysValues not in kept.values():
            what = ", ".join(other) or "no keys and values"
            raise ValueError(
                f"cache_dtype={name!r} does not go with this model: its layers keep "
                f"{what}, and only keys and values have codes. Leave it out."
            )
        self.cache_dtype = CACHE_DTYPES[name]

    def new_cache(self, batch: int, capacity: int) -> Cache:
        """Returns an empty cache for `batch` rows of up to `capacity` tokens."""
        return self.begin_cache(self.empty_cache(batch, capacity + self.learned))

    def empty_cache(self, batch: int, slots: int) -> Cache:
        """Returns a cache without anything in it."""
        kept, kv_dtype = self.layer_states, self.cache_dtype
        return Cache(kept, batch, slots, self.dtype, self.device, kv_dtype)

    def begin_cache(self, cache: Cache) -> Cache:
        """Fills an empty cache with the keys and values that stand before every
        sequence."""
        if self.learned:
            cache.begin_with(self.learned_states())
        return cache

    @torch.no_grad()
    def learned_states(self) -> torch.Tensor:
        """Returns the keys and values that stand before every sequence; computed
        once."""
        known = self._learned
        if known is None or (known.device, known.dtype) != (self.device, self.dtype):
            rows = torch.arange(self.learned, device=self.device)[None]
            ops = self.ops or operations(self.device.type)
            self._learned = known = self.encode_prefix(rows, ops)
        return known

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = True,
        logits_to_keep: int = 0,
    ) -> Output:
        """Computes logits for `input_ids` [B, T], as models of transformers answer.

        `attention_mask` [B, past + T], bool or integers 0 and 1, marks padding: 0s on
        the left of a row, or on the right of a prompt that is not continued.
        `position_ids` [B, T] default to counting each row's tokens. `past_key_values`
        is the cache of the call before and is extended in place. `logits_to_keep`
        limits the logits to the last that many positions. Raises ValueError when the
        inputs contradict each other or this model; the cache is then as it was.
        """
        check_ids(input_ids, self.vocab_size)
        batch, tokens = input_ids.shape
        cache = past_key_values
        if cache is None:
            cache = self.new_cache(batch, tokens)
        check_cache(cache, batch, len(self.layer_states))
        check_keep(logits_to_keep)
        with cache.unless_refused():
            if attention_mask is not None:
                read_mask(attention_mask, cache, tokens)
            pos = self.scheme(position_ids, cache, input_ids, self.max_positions)
        self._tell_turn(cache.tokens, cache.tokens + tokens)
        self.tell_length(cache.tokens + tokens)
        cache.reserve(cache.length + tokens)
        ops = self.ops or operations(input_ids.device.type)
        with cache.reading():
            logits = self.compute(input_ids, pos, cache, logits_to_keep, ops)
            logits = self.whole(logits, input_ids[:, -logits_to_keep:], ops)
        cache.advance(tokens)
        return Output(logits, cache if use_cache else None)

    def tell_length(self, tokens: int) -> None:
        """Warns, once for a model, where a text is longer than those it was trained
        on."""
        most = self.trained_positions
        if most is not None and tokens > most and not self._told_length:
            self._told_length = True
            warnings.warn(
                f"the text has {tokens} tokens, and by its config this model was made "
                f"for {most}: what it says from here on may be worth little.",
                stacklevel=3,
            )

    def _tell_turn(self, past: int, end: int) -> None:
        """Warns where a call goes on with keys that longer texts turn otherwise."""
        for limit in self.turns_at:
            if 0 < past <= limit < end:
                warnings.warn(
                    f"with position {limit} the keys of this model are turned by other "
                    f"factors, and the cache holds {past} tokens from before; call "
                    "again with the whole text, as generate() does.",
                    stacklevel=3,
                )

    def generate(
        self,
        input_ids: torch.Tensor | str | Sequence[str],
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        *,
        max_new_tokens: int | None = None,
        stream: bool = False,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        eos_token_id: int | Sequence[int] | None = None,
        pad_token_id: int | None = None,
        tokenizer: Any = None,
        streamer: Any = None,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        past_key_values: Cache | None = None,
        draft: Any = None,
        draft_tokens: int | None = None,
        **settings: Any,
    ) -> Any:
        """Continues `input_ids` [B, P]; rows are padded on the left, which
        `attention_mask` [B, P] tells. `position_ids` are as in a call; new tokens
        count on from the last. Or continues a text, or several, with `tokenizer`.

        What is not given is as the checkpoint's generation_config.json has it, and else
        greedy and 128 new tokens. `do_sample` draws tokens, and so does `temperature`,
        `top_k`, `top_p` or `min_p`; `seed` makes that repeatable. A row ends at one of
        `eos_token_id` (an id or several, () for none; by default the model's own), at
        one of `stop_strings` (with `tokenizer`), or where one of `stopping_criteria`
        says so, and is filled with `pad_token_id`; when every row has ended, so does
        the generation. `logits_processor` are called with (tokens, scores) before a
        token is chosen. `streamer` is given the prompt and each token by `put`, then
        `end`. `past_key_values`, a cache with the beginning of `input_ids`, is gone on
        from and extended in place. `draft`, a model of another build with the same
        vocabulary, guesses `draft_tokens` (4) at a time, and no token is another for
        it. `settings` are those of `wishes.OBEYED`, by transformers' names:
        repetition_penalty, min_new_tokens, num_return_sequences, and others.

        Returns int64 [B, P + new], or with `stream` an iterator over the new tokens,
        one int64 [B] on the CPU a step: a GPU already computes the next one. For a text
        it returns the text that follows, with `stream` in pieces; for several a list.
        Raises ValueError for arguments that are not obeyed or out of range.
        """
        named = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        given = {**settings, **named, "max_new_tokens": max_new_tokens}
        ends = self.eos_token_id if eos_token_id is None else eos_token_id
        eos = (ends,) if isinstance(ends, int) else tuple(ends)
        own = listed(logits_processor)
        settled = settle(self.generation_defaults, given, eos, own)
        prompt = Prompt.read(input_ids, attention_mask, position_ids, tokenizer)
        ids, steps = generate(
            self,
            *prompt.tensors(self.device),
            settings=settled,
            seed=seed,
            eos=eos,
            pad=self.pad_token_id if pad_token_id is None else pad_token_id,
            tokenizer=tokenizer,
            criteria=listed(stopping_criteria),
            cache=past_key_values,
            draft=draft,
            guesses=draft_tokens,
        )
        if streamer is not None:
            steps = streamed(ids, steps, streamer)
        return prompt.answer(ids, steps, stream)
