"""Fixtures that load a config given as a dict."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from glmc.frontends.build.source import resolve_source
from glmc.frontends.frontend import LoadedModel, load_model
from glmc.ir.errors import GlmcError

Load = Callable[..., LoadedModel]
Refusal = Callable[..., str]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load a config that is given as a dict."""

    def run(config: Mapping[str, Any], **options: Any) -> LoadedModel:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config))
        return load_model(resolve_source(str(path)), **options)

    return run


@pytest.fixture
def refusal(load: Load) -> Refusal:
    """The message with which a config is refused."""

    def run(config: Mapping[str, Any], **options: Any) -> str:
        with pytest.raises(GlmcError) as error:
            load(config, **options)
        message = str(error.value)
        assert "\n" not in message
        return message

    return run
