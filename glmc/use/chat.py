"""``glmc chat``: a conversation in the terminal, with the model's own template."""

import argparse
import contextlib
import inspect
import json
import sys
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from glmc.ir.errors import OptionValueError
from glmc.look.builds import Build
from glmc.use.ranks import on_every_rank, refusal, told_by_first
from glmc.use.running import load_model, load_tokenizer, sampling

_HELP = """\
/clear  begin a new conversation     /undo  take the last round back
/help   this list                    /exit  leave, as Ctrl-D does
Ctrl-C stops an answer; what was said until then is kept."""


class Conversation:
    """A history of messages and the model that continues it.

    Args:
        model: a build's Model with its weights.
        tokenizer: its tokenizer, with a chat template.
        system: a system message to begin with, or None.
        options: what ``model.generate`` is given, sampling and length.
        template: what ``apply_chat_template`` is given: which template, its variables.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        system: str | None = None,
        options: Mapping[str, Any] | None = None,
        template: Mapping[str, Any] | None = None,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._system = system
        self._options = dict(options or {})
        self._template = dict(template or {})
        self.messages: list[dict[str, str]] = []
        self.clear()

    def clear(self) -> None:
        """Begin anew, with the system message alone."""
        first = {"role": "system", "content": self._system or ""}
        self.messages = [first] if self._system else []

    def undo(self) -> bool:
        """Forget the last question and its answer; return whether there was one."""
        asked = [i for i, m in enumerate(self.messages) if m["role"] == "user"]
        if asked:
            del self.messages[asked[-1] :]
        return bool(asked)

    def reply(self, text: str) -> Generator[str, None, None]:
        """Yield the answer to a message, piece by piece as it is made.

        The question and as much of the answer as was read go into the history, however
        the iteration ends; a question that cannot be asked leaves it as it was.
        """
        asked = [*self.messages, {"role": "user", "content": text}]
        stream = self._stream(asked)
        said: list[str] = []
        try:
            for piece in stream:
                # Templates end before the line break that a model then begins with.
                piece = piece if said else piece.lstrip()
                if piece:
                    said.append(piece)
                    yield piece
        finally:
            answer = {"role": "assistant", "content": "".join(said).strip()}
            self.messages = [*asked, answer]

    def _stream(self, messages: list[dict[str, str]]) -> Iterator[str]:
        """Yield the text of the model's continuation; raises before the first piece."""
        batch = self._tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=True,
            return_tensors="pt",
            **self._template,
        ).to(self._model.device)
        ends = {*self._tokenizer.eos_token_ids, *self._model.eos_token_id}
        tokens = self._model.generate(
            batch["input_ids"],
            stream=True,
            eos_token_id=sorted(ends),
            tokenizer=self._tokenizer,
            **self._options,
        )
        pieces: Iterator[str] = self._tokenizer.stream()(tokens)
        return pieces


@on_every_rank
def chat_command(arguments: argparse.Namespace) -> int:
    """Run ``glmc chat``."""
    tokenizer = load_tokenizer(arguments)
    taken = inspect.signature(tokenizer.apply_chat_template).parameters
    template = chosen_template(arguments.template, arguments.template_arg, taken)
    model = load_model(arguments)
    options = sampling(arguments)
    conversation = Conversation(model, tokenizer, arguments.system, options, template)
    if sys.stdin.isatty():
        print(f"{arguments.build}: {tokenizer.variant or 'chat'}; /help for commands")
    for line in told_by_first(arguments, _lines()):
        if line.startswith("/"):
            if not _obey(conversation, line):
                return 0
        elif line:
            _answer(conversation, line, alone=Build(arguments.build).ranks == 1)
    return 0


def chosen_template(
    name: str | None, given: Sequence[str], taken: Collection[str]
) -> dict[str, Any]:
    """Return the arguments of
    ``apply_chat_template``, from ``--template`` and ``--template-arg``.

    A value is JSON where it is any (``false``, ``3``), and else text; the names that
    are ``taken`` are no variables.

    Raises:
        GlmcError: when a variable has no value, or a file cannot be read.
    """
    found: dict[str, Any] = {}
    for text in given:
        key, is_given, value = text.partition("=")
        if not is_given or not key.isidentifier() or key in taken:
            raise OptionValueError(
                f"--template-arg {text!r}: expected a variable of the chat template "
                "and its value, such as enable_thinking=false"
            )
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    if name is not None:
        file = Path(name)
        try:
            found["chat_template"] = file.read_text("utf-8") if file.is_file() else name
        except (OSError, UnicodeDecodeError) as error:
            raise OptionValueError(f"--template {name}: {error}") from error
    return found


def _lines() -> Iterator[str]:
    """Yield the lines that the user enters, until the end of the input."""
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin)
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (arrow keys and a history for input)
    while True:
        try:
            yield input("> ").strip()
        except EOFError:
            print()
            return


def _obey(conversation: Conversation, line: str) -> bool:
    """Carry out a ``/command``; return False to leave."""
    if line in ("/exit", "/quit"):
        return False
    if line == "/clear":
        conversation.clear()
        print("A new conversation.")
    elif line == "/undo":
        undone = conversation.undo()
        print("The last round is forgotten." if undone else "There is nothing to undo.")
    else:
        print(_HELP)
    return True


def _answer(conversation: Conversation, line: str, *, alone: bool) -> None:
    """Print the answer to a line. Where it is stopped, several ranks all end: each
    would have stopped at another token."""
    try:
        with contextlib.closing(conversation.reply(line)) as pieces:
            for piece in pieces:
                print(piece, end="", flush=True)
    except (ValueError, RuntimeError) as error:
        raise refusal(error) from error
    except KeyboardInterrupt:
        if not alone:
            raise
        print(" [stopped]", end="")
    print()
