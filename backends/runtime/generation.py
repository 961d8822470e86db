"""Token-by-token generation over a preallocated cache."""

import warnings
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .cache import Cache
from .checks import check_ids
from .decoding import Session
from .endings import Criterion, Endings
from .inputs import check_cache
from .sampling import Sampler
from .settings import USUAL_MOST, USUAL_NEW, Settings

if TYPE_CHECKING:
    from .causal_lm import CausalLM


class Asked(NamedTuple):
    """A generation as it was asked for: rows, their limits, and their ends.

    `ids` are the rows' tokens [B, P], `mask` and `pos` as in a call of the model.
    """

    ids: torch.Tensor
    mask: torch.Tensor | None
    pos: torch.Tensor | None
    new: int
    sampler: Sampler
    endings: Endings
    pad: int
    #: How many the checkpoint's file allows, where that is more.
    allowed: int
    #: Whether the call says how long the rows get.
    limited: bool
    #: The cache that holds the beginning of the rows, where the caller has one.
    cache: Cache | None = None


def generate(
    model: "CausalLM",
    ids: torch.Tensor,
    mask: torch.Tensor | None,
    pos: torch.Tensor | None,
    *,
    settings: Settings,
    seed: int | None,
    eos: Sequence[int],
    pad: int | None,
    tokenizer: Any = None,
    criteria: Sequence[Criterion] = (),
    cache: Cache | None = None,
    draft: "CausalLM | None" = None,
    guesses: int | None = None,
) -> tuple[torch.Tensor, Iterator[torch.Tensor]]:
    """Checks the arguments, then returns the rows and an iterator over their new
    tokens, int64 [B].

    `eos` are the ids that end a row; an ended row goes on with `pad` (by default the
    first of `eos`) until all rows have ended. `cache` holds the first tokens of the
    rows; `draft` guesses so many tokens at a time, see `speculation`.
    """
    check_ids(ids, model.vocab_size)
    if settings.copies > 1:
        ids, mask, pos = (_copies(part, settings.copies) for part in (ids, mask, pos))
    allowed = _length(settings, ids.shape[1], pos, model.max_positions)
    new = allowed if settings.limited else min(allowed, USUAL_MOST)
    _check_length(ids.shape[1], pos, new, model.max_positions)
    if mask is not None and mask.shape == ids.shape and not bool(mask[:, -1].all()):
        raise ValueError(
            "attention_mask ends a row with 0, so a prompt is padded on the right; "
            "pad on the left, because generation continues on the right."
        )
    if pad is None:
        pad = eos[0] if eos else 0
    draws = settings.draws or {}
    sampler = Sampler(seed=seed, device=model.device, rules=settings.rules, **draws)
    texts, seconds = settings.stop_strings, settings.seconds
    endings = Endings(ids, eos, texts, tokenizer, criteria, seconds)
    limited = settings.limited
    asked = Asked(ids, mask, pos, new, sampler, endings, pad, allowed, limited, cache)
    if cache is not None:
        _check_begun(cache, ids, draft)
    if mask is None or mask.shape == ids.shape:
        # What the rules name and the model has not is refused at once.
        sampler.begin(
            ids, mask, model.vocab_size, prompt=ids.shape[1], total=ids.shape[1] + new
        )
    if draft is None:
        return ids, _until(_tokens(model, asked), asked)
    from .speculation import USUAL_GUESSES, check_draft, speculated

    count = USUAL_GUESSES if guesses is None else guesses
    check_draft(model, draft, ids.shape[1], new, count)
    return ids, _until(speculated(model, draft, asked, count), asked)


def _check_begun(cache: Any, ids: torch.Tensor, draft: Any) -> None:
    """Refuses a cache that these rows do not go on from."""
    if draft is not None:
        raise ValueError(
            "past_key_values and draft do not go together: the draft has not read what "
            "the cache holds. Leave out one of them."
        )
    check_cache(cache, len(ids), len(cache.layers) if isinstance(cache, Cache) else 0)
    if cache.tokens >= ids.shape[1]:
        raise ValueError(
            f"past_key_values holds {cache.tokens} tokens of each row, and input_ids "
            f"has {ids.shape[1]}: give the whole text, with a token or more that is "
            "not in the cache yet."
        )


def _copies(part: Any, count: int) -> Any:
    """Repeats each row so many times; what is the same for all rows stays as it is."""
    if part is None or part.ndim < 2:
        return part
    return part.repeat_interleave(count, 0)


def _length(
    settings: Settings, prompt: int, pos: torch.Tensor | None, limit: int | None
) -> int:
    """Returns the largest number of new tokens."""
    if settings.new is not None:
        new = settings.new
    elif settings.length is not None:
        new = settings.length - prompt
        if new < 1 and settings.limited:
            raise ValueError(
                f"max_length={settings.length} leaves no room behind a prompt of "
                f"{prompt} tokens; max_new_tokens does not count the prompt."
            )
    else:
        return USUAL_NEW
    if settings.limited:
        return new
    # A file's limit is no request, and the model's own may be nearer.
    begin = prompt if pos is None else max(prompt, int(pos.max()) + 1)
    return max(1, new if limit is None else min(new, limit - begin + 1))


def _tokens(model: "CausalLM", asked: Asked) -> Generator[torch.Tensor]:
    """Yields the new tokens as they are chosen, int64 [B] on the CPU."""
    ids, new = asked.ids, asked.new
    decoder = model.decoder
    with _session(model, asked) as session:
        _read_prompt(model, session, asked, ids, asked.mask, asked.pos)
        again = _Again(model, session, asked)
        ahead = decoder.ahead
        if ahead is None:
            ahead = 1 if ids.is_cuda else 0
        if asked.cache is not None:
            ahead = 0  # the caller's cache holds what was handed out, and no more
        waiting = deque([session.newest()])
        begun = 1
        for n in range(new):
            while begun < min(new, n + 1 + ahead):
                model.tell_length(ids.shape[1] + begun)
                again.step(begun)
                waiting.append(session.newest())
                begun += 1
            yield waiting.popleft()()
    if asked.allowed > new:
        warnings.warn(
            f"the generation ends after {new} tokens, and generation_config.json "
            f"allows {asked.allowed}; room for them is taken at the beginning, so give "
            "max_new_tokens to have more.",
            stacklevel=2,
        )


@contextmanager
def _session(model: "CausalLM", asked: Asked) -> Iterator[Session]:
    """Yields a session on the caller's cache, or on one that the decoder chooses."""
    batch, prompt = asked.ids.shape
    total = prompt + asked.new
    if asked.cache is None:
        with model.decoder.session(model, batch, total, asked.sampler) as session:
            yield session
        return
    model.decoder.path = "eager: it goes on from a cache of the caller's"
    asked.cache.reserve(asked.cache.learned + total)
    yield Session(model, asked.cache, asked.sampler, None)


@torch.no_grad()
def _read_prompt(
    model: "CausalLM",
    session: Session,
    asked: Asked,
    ids: torch.Tensor,
    mask: torch.Tensor | None,
    pos: torch.Tensor | None,
) -> None:
    """Fills the cache, and chooses the first token."""
    cache = session.cache
    prompt, past = asked.ids.shape[1], cache.tokens
    session.sampler.begin(
        ids, mask, model.vocab_size, prompt=prompt, total=prompt + asked.new
    )
    rest = None if pos is None else pos[..., past:]
    out = model(ids[:, past:], mask, rest, past_key_values=cache, logits_to_keep=1)
    token = model.choose(out.logits, ids[:, -1:], session.sampler, session.ops)
    after = None if pos is None else _next(pos)
    after = model.scheme(after, cache, token[:, None], None)
    model.decoder.begun(session, session.begin(token, after))


class _Again:
    """Steps of a generation, of which some read the whole context again.

    A rope with factors of its own for long texts (longrope) turns every key with them
    as soon as the text is long. Keys that the cache holds from before are turned with
    the others, so the step that makes the text long reads all tokens anew.
    """

    def __init__(self, model: "CausalLM", session: Session, asked: Asked):
        self.model, self.session, self.asked = model, session, asked
        self.ids, self.mask, self.pos = ids, mask, pos = asked[:3]
        #: The largest position so far, and the steps at which the text gets long.
        last = _last(ids, mask, pos) if model.turns_at else 0
        self.at = {limit - last for limit in model.turns_at if last < limit}
        self.made: list[torch.Tensor] = []

    def step(self, number: int) -> None:
        """Runs the step of this number, counted from 1, which reads one token."""
        if self.at and number <= max(self.at):
            self.made.append(self.session.chosen())
        if number in self.at:
            self._read_again()
        else:
            self.session.step()

    @torch.no_grad()
    def _read_again(self) -> None:
        made = torch.stack(self.made, 1)
        ids = torch.cat((self.ids, made), 1)
        mask, pos = self.mask, self.pos
        if mask is not None:
            mask = torch.cat((mask, mask.new_ones(made.shape)), 1)
        for _ in range(made.shape[1]):
            pos = None if pos is None else torch.cat((pos, _next(pos)), -1)
        self.session.restart()
        _read_prompt(self.model, self.session, self.asked, ids, mask, pos)


def _last(
    ids: torch.Tensor, mask: torch.Tensor | None, pos: torch.Tensor | None
) -> int:
    """Returns the largest position of a prompt."""
    if pos is not None:
        return int(pos.max())
    longest = ids.shape[1] if mask is None else int((mask != 0).sum(1).max())
    return longest - 1


def _until(tokens: Generator[torch.Tensor], asked: Asked) -> Iterator[torch.Tensor]:
    """Yields `tokens` until every row has ended, and `pad` in rows after their end."""
    ended = torch.zeros(len(asked.ids), dtype=torch.bool, device="cpu")
    with closing(tokens):
        for token in tokens:
            shown = token.masked_fill(ended, asked.pad)
            yield shown
            ended |= asked.endings(shown)
            if bool(ended.all()):
                return
    if asked.endings.texts and not asked.limited:
        warnings.warn(
            f"{int((~ended).sum())} of {len(ended)} rows end after {asked.new} tokens "
            "because no length was asked for, and before a stop string was said: "
            f"{', '.join(map(repr, asked.endings.texts))[:80]}. Give max_new_tokens to "
            "have more.",
            stacklevel=2,
        )


def _next(pos: torch.Tensor) -> torch.Tensor:
    """Returns the positions after the last of `pos` [T], [B, T] or [B, 2, T], of whose
    streams the second counts."""
    after = pos[..., -1:].clone()
    counting = after[:, -1] if pos.ndim == 3 else after
    counting += 1
    return after


def _check_length(
    prompt: int, pos: torch.Tensor | None, new: int, limit: int | None
) -> None:
    if new < 1:
        raise ValueError(f"max_new_tokens is {new}; give 1 or more.")
    if limit is not None and pos is not None:
        prompt = max(prompt, int(pos.max()) + 1)
    # The last new token is only answered, never read, so it needs no position.
    if limit is not None and prompt + new - 1 > limit:
        raise ValueError(
            f"a prompt of {prompt} tokens and max_new_tokens={new} go beyond the "
            f"{limit} positions of this model; shorten the prompt or ask for "
            f"{max(limit - prompt + 1, 0)} tokens at most."
        )
