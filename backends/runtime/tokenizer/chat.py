"""The chats of the published ChatGLM code, for repositories without a template.

A chat is a list of parts: text, and special tokens by name.
"""

import json
from collections.abc import Sequence

from .files import TokenizerError
from .messages import Chat, Message, Parts, Special

#: With the full-width colon.
QUESTION, ANSWER = "问\uff1a", "答\uff1a"


def chatglm(messages: Sequence[Message], generate: bool) -> Parts:
    """Writes a chat of ChatGLM-6B: a lone question as it is, else rounds from 0."""
    turns, answer = _rounds(messages, generate, "ChatGLM-6B")
    if len(turns) == 1:
        text = turns[0][0]
    else:
        text = "".join(
            f"[Round {i}]\n{QUESTION}{question}\n{ANSWER}{reply}\n"
            for i, (question, reply) in enumerate(turns[:-1])
        )
        text += f"[Round {len(turns) - 1}]\n{QUESTION}{turns[-1][0]}\n{ANSWER}"
    parts = [text, Special("[gMASK]"), Special("<sop>")]
    return parts if answer is None else [*parts, answer, Special("<eop>")]


def chatglm2(messages: Sequence[Message], generate: bool) -> Parts:
    """Writes a chat of ChatGLM2: rounds from 1, blank lines between."""
    turns, answer = _rounds(messages, generate, "ChatGLM2")
    text = "".join(
        f"[Round {i}]\n\n{QUESTION}{question}\n\n{ANSWER}{reply}\n\n"
        for i, (question, reply) in enumerate(turns[:-1], 1)
    )
    text += f"[Round {len(turns)}]\n\n{QUESTION}{turns[-1][0]}\n\n{ANSWER}"
    parts = [Special("[gMASK]"), Special("sop"), text]
    return parts if answer is None else [*parts, answer, Special("</s>")]


def chatglm3(messages: Sequence[Message], generate: bool) -> Parts:
    """Writes a chat of ChatGLM3: each message behind its role; a system message may
    have tools."""
    return [Special("[gMASK]"), Special("sop"), *_roles(messages, generate, True)]


def glm4(messages: Sequence[Message], generate: bool) -> Parts:
    """Writes a chat of GLM-4: as ChatGLM3, and no tools."""
    return [Special("[gMASK]"), Special("<sop>"), *_roles(messages, generate, False)]


#: By variant; codegeex2 completes code and has no chat.
CHATS: dict[str, Chat] = {
    "chatglm": chatglm,
    "chatglm2": chatglm2,
    "chatglm3": chatglm3,
    "glm-4": glm4,
}


def _roles(messages: Sequence[Message], generate: bool, tools: bool) -> Parts:
    parts: Parts = []
    for message in messages:
        role, content = message["role"], _content(message)
        if role not in ("system", "user", "assistant", "observation"):
            raise TokenizerError(
                f"this chat has no role {role!r}; there are system, user, assistant "
                "and observation."
            )
        if message.get("tools"):
            if role != "system" or not tools:
                raise TokenizerError(
                    "tools are only known in the system message of a ChatGLM3 chat; "
                    "give chat_template= with one that knows them here."
                )
            listed = json.dumps(message["tools"], indent=4, ensure_ascii=False)
            content = f"{content}\n{listed}"
        metadata = message.get("metadata", "")
        if not isinstance(metadata, str):
            raise TokenizerError("the metadata of a message must be text.")
        parts += [Special(f"<|{role}|>"), f"{metadata}\n", content]
    return [*parts, Special("<|assistant|>")] if generate else parts


def _rounds(
    messages: Sequence[Message], generate: bool, name: str
) -> tuple[list[tuple[str, str]], str | None]:
    """Returns (question, answer) of each round, and the last answer if there is one."""
    for number, message in enumerate(messages):
        expected = ("user", "assistant")[number % 2]
        if message["role"] != expected:
            raise TokenizerError(
                f"a chat of {name} is questions and answers in turn, so message "
                f"{number} must be of the {expected}, not of the {message['role']}."
            )
    texts = [_content(message) for message in messages]
    answer = texts.pop() if len(texts) % 2 == 0 else None
    if answer is not None and generate:
        raise TokenizerError(
            "the chat ends with an answer, so there is nothing to generate; add the "
            "user's next message, or leave out add_generation_prompt."
        )
    replies = [*texts[1::2], ""]
    return list(zip(texts[::2], replies, strict=True)), answer


def _content(message: Message) -> str:
    content = message.get("content")
    if not isinstance(content, str):
        raise TokenizerError(
            f"the content of a message of the {message['role']} is a "
            f"{type(content).__name__}, but this chat takes text."
        )
    return content
