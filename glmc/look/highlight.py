"""A Pygments lexer for dumps: ``pygmentize build/ir/1-lowered.glmc``."""

from typing import ClassVar

from pygments.lexer import RegexLexer
from pygments.token import (
    Comment,
    Keyword,
    Name,
    Number,
    Punctuation,
    String,
    Text,
)


class DumpLexer(RegexLexer):
    """Both levels of the IR: programs, and the records of a Model."""

    name = "glmc"
    aliases: ClassVar[list[str]] = ["glmc"]
    filenames: ClassVar[list[str]] = ["*.glmc"]
    tokens: ClassVar[dict[str, list[tuple[object, ...]]]] = {
        "root": [
            (r"\s+", Text),
            (r"#.*$", Comment.Single),
            (r"^(program|stem|block|head)\b", Keyword.Declaration),
            (r"\bstate(?= %)", Keyword.Declaration),
            (r"\breturn\b", Keyword),
            (r'"(\\.|[^"\\])*"', String),
            (r"%\w+", Name.Variable),
            (r"@\w+", Name.Constant),
            (r"\b(f32|f16|bf16|i64|i32|i8|u8|bool|kv)(?=\[|\b)", Keyword.Type),
            (r"\bper (token|row)\b", Keyword.Type),
            (r"\b(none|true|false)\b", Keyword.Constant),
            (r"\w+(?==)", Name.Attribute),
            (r"\w+(?=\()", Name.Function),
            (r"-?\d+(\.\d+)?(e[+-]?\d+)?\b", Number),
            (r"[\w.]+", Name),
            (r"[][(){},:=|.-]", Punctuation),
        ]
    }
