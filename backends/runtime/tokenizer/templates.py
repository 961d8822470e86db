"""Choose the chat template of a repository, and render chats by it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .files import MAX_TEMPLATE, TEMPLATES, Folder, TokenizerError
from .jinja import render

FILE = "chat_template.jinja"
CONFIG = "tokenizer_config.json"
MAX_TEMPLATES = 32
#: Marks the end of what a model is to go on with.
TAG = "CONTINUE_FINAL_MESSAGE_TAG "
#: The names that templates read what a model thought by.
REASONING = ("reasoning_content", "thinking", "reasoning")


@dataclass(frozen=True)
class Template:
    """A chat template and the file that it is from."""

    text: str
    where: str


def read_templates(folder: Folder) -> dict[str, Template]:
    """Reads the repository's Jinja chat templates by name; most have one, "default".

    Files of their own stand above what tokenizer_config.json has. Raises
    TokenizerError where that is no template.
    """
    found = {}
    if folder.has(FILE):
        found["default"] = Template(folder.text(FILE, MAX_TEMPLATE), FILE)
    names = folder.names(TEMPLATES, ".jinja")
    if len(names) > MAX_TEMPLATES:
        raise TokenizerError(
            f"{folder.path / TEMPLATES} has {len(names)} templates; more than "
            f"{MAX_TEMPLATES} are not read."
        )
    for name in names:
        where = f"{TEMPLATES}/{name}"
        text = folder.text(where, MAX_TEMPLATE)
        found[name.removesuffix(".jinja")] = Template(text, where)
    return found or _configured(folder.tokenizer_config.get("chat_template"), folder)


def _configured(given: object, folder: Folder) -> dict[str, Template]:
    if given is None:
        return {}
    if isinstance(given, str):
        return {"default": Template(given, CONFIG)}
    entries = given if isinstance(given, list) else [given]
    found = {}
    for entry in entries[:MAX_TEMPLATES]:
        pair = entry if isinstance(entry, dict) else {}
        name, text = pair.get("name"), pair.get("template")
        if not isinstance(name, str) or not isinstance(text, str):
            raise TokenizerError(
                f"{folder.path / CONFIG}: chat_template is neither a text nor a list "
                'of {"name": ..., "template": ...}; download it again.'
            )
        found[name] = Template(text, f"{CONFIG}, {name[:40]!r}")
    return found


def choose_template(
    templates: Mapping[str, Template], wanted: str | None, tools: bool
) -> Template | None:
    """Returns the template of a name, a given one, or else the one for `tools` or the
    default.

    None where the repository has none. Raises TokenizerError for a word that names no
    template and is none, and where nothing says which of several.
    """
    if wanted is None:
        if tools and "tool_use" in templates:
            return templates["tool_use"]
        if "default" in templates or not templates:
            return templates.get("default")
        raise TokenizerError(
            "this repository has several chat templates and no default; choose with "
            f"chat_template=, one of {', '.join(sorted(templates))}."
        )
    if not isinstance(wanted, str):
        raise TokenizerError(
            "chat_template= takes a template or the name of one, not a "
            f"{type(wanted).__name__}."
        )
    if wanted in templates:
        return templates[wanted]
    if "{{" not in wanted and "{%" not in wanted:
        there = ", ".join(sorted(templates)) or "none"
        raise TokenizerError(
            f"chat_template={wanted[:40]!r} is no template, and this repository has "
            f"none of that name (there is {there}); give one of those or Jinja text."
        )
    return Template(wanted, "chat_template=")


def render_chat(
    template: Template,
    chat: list[dict[str, Any]],
    variables: Mapping[str, Any],
    goes_on: bool | str = False,
    spans: list[tuple[int, int]] | None = None,
) -> str:
    """Renders one chat; with `goes_on` its last message is left open.

    `goes_on` is True for the content of the last message, or the key of another text
    of it. `spans` is as for `jinja.render`.
    """
    chat = [_with_reasoning(message) for message in chat]
    said = _tag_last(template, chat, goes_on) if goes_on else ""
    text = render(template.text, {**variables, "messages": chat}, template.where, spans)
    if not goes_on:
        return text
    tag = TAG.strip()
    if said.strip() not in text or tag not in text:
        raise TokenizerError(
            f"continue_final_message is set, but the chat template ({template.where}) "
            "does not write the final message as it is, so there is nothing to go on "
            f"from; the message begins with {said.strip()[:40]!r}."
        )
    at = text.rindex(tag)
    # Where the template trims the message, what is before the tag is trimmed as well.
    return text[:at] if text.startswith(TAG, at) else text[:at].rstrip()


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Returns a message that has what was thought under every name that templates
    read."""
    thought = next((message[k] for k in REASONING if message.get(k) is not None), None)
    if thought is None:
        return dict(message)
    return {"thinking": thought, **message, "reasoning_content": thought}


def _tag_last(
    template: Template, chat: list[dict[str, Any]], goes_on: bool | str
) -> str:
    """Puts the tag behind the text of the last message; returns that text."""
    field = goes_on if isinstance(goes_on, str) else "content"
    last = chat[-1]
    said = last.get(field)
    fields = [field]
    if field in REASONING:
        fields = [name for name in REASONING if last.get(name) == said]
    if said is None or not any(name in template.text for name in fields):
        lacks = "the final message has" if said is None else "the chat template reads"
        raise TokenizerError(
            f"continue_final_message is to go on with {field!r}, but {lacks} no such "
            "key."
        )
    if isinstance(said, list):
        blocks = [b for b in said if isinstance(b, dict) and _is_text(b.get("text"))]
        if not blocks:
            raise TokenizerError(
                f"continue_final_message is set, but the {field} of the final message "
                "has no part with text to go on with."
            )
        text = str(blocks[-1]["text"])
        last[field] = [
            {**b, "text": text + TAG} if b is blocks[-1] else b for b in said
        ]
        return text
    if not isinstance(said, str):
        raise TokenizerError(
            f"continue_final_message is to go on with {field!r}, which is a "
            f"{type(said).__name__} in the final message and no text."
        )
    for name in fields:
        last[name] = said + TAG
    return said


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def marks_answers(template: Template) -> bool:
    """Tells whether a template has the block `{% generation %}`."""
    return re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", template.text) is not None
