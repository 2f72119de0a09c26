"""How a prompt and a response become the text of one example.

A template is a string with {prompt} and, at its end, {response}; or a Jinja chat template (the
tokenizer's own, or a file). Spaces right before {response} belong to the response's text, because
byte-level tokenizers join a space to the word after it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from toolkit.spec.errors import Problem, SpecError

DEFAULT = "{prompt}\n\n{response}"

Message = Mapping[str, str]
"""One turn of a conversation: role and content."""


@dataclass(frozen=True)
class Template:
    """A template in one of its two forms.

    Args:
        kind: "string" with {prompt} and {response}, or "jinja", rendered as chat templates are.
        source: the string, or the Jinja text.
        tokens: special tokens a Jinja template may name, such as {"eos_token": "<|im_end|>"}.
    """

    kind: Literal["string", "jinja"]
    source: str
    tokens: Mapping[str, str] | None = None

    @property
    def lead(self) -> str:
        """Return the spaces that stand right before {response}."""
        if self.kind == "jinja":
            return ""
        before = self.source.removesuffix("{response}")
        return before[len(before.rstrip(" ")) :]

    def render_prompt(self, prompt: str, messages: Sequence[Message] | None = None) -> str:
        """Return everything that stands before the response.

        Args:
            prompt: the user's text.
            messages: the conversation up to the response; what a Jinja template gets if given.
        """
        if self.kind == "string":
            return self.source.removesuffix("{response}").rstrip(" ").replace("{prompt}", prompt)
        turns: list[Message] = list(messages) if messages else [{"role": "user", "content": prompt}]
        return _render_jinja(self.source, turns, self.tokens or {})

    def render_response(self, response: str) -> str:
        """Return the text of the response as it is tokenized, without end-of-text."""
        return self.lead + response


def make_template(
    setting: str | None,
    *,
    default: str | None = None,
    chat: str | None = None,
    tokens: Mapping[str, str] | None = None,
) -> Template:
    """Make the template that `text.template` names.

    Args:
        setting: `text.template`: None, a string, "chat", or a path that ends in .jinja.
        default: the task's template, used when setting is None.
        chat: the tokenizer's chat template, used for "chat".
        tokens: the tokenizer's special tokens, for Jinja templates.

    Raises:
        SpecError: the string lacks {prompt} or does not end in {response}; no chat template;
            the file cannot be read.
    """
    if setting == "chat":
        if chat is None:
            raise _error(
                "chat", "the tokenizer has no chat template; give a string or a .jinja file"
            )
        return Template("jinja", chat, tokens)
    if setting is not None and setting.endswith(".jinja"):
        try:
            return Template("jinja", Path(setting).read_text(encoding="utf-8"), tokens)
        except OSError as error:
            raise _error(setting, f"cannot be read ({error.strerror})") from error
    source = setting if setting is not None else default or DEFAULT
    if source.count("{prompt}") != 1 or source.count("{response}") != 1:
        raise _error(source, "must hold {prompt} and {response} once each")
    if not source.endswith("{response}"):
        raise _error(source, "must end in {response}; end-of-text is added by the toolkit")
    return Template("string", source)


def load_chat_template(folder: Path) -> str | None:
    """Read the chat template of a tokenizer folder, or return None when it has none."""
    beside = folder / "chat_template.jinja"
    if beside.exists():
        return beside.read_text(encoding="utf-8")
    config = folder / "tokenizer_config.json"
    found = (
        json.loads(config.read_text(encoding="utf-8")).get("chat_template")
        if config.exists()
        else None
    )
    if isinstance(found, list):
        named = {entry["name"]: entry["template"] for entry in found}
        return named.get("default")
    return found


def _error(value: str, message: str) -> SpecError:
    return SpecError([Problem("spec", 0, 0, "text.template", f"{value!r} {message}")])


def _render_jinja(source: str, messages: list[Message], tokens: Mapping[str, str]) -> str:
    """Render a chat template in a sandbox, with the names transformers gives such templates."""
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def fail(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    world = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    world.filters["tojson"] = to_json
    world.globals["raise_exception"] = fail
    try:
        template = world.from_string(source)
        return template.render(messages=messages, add_generation_prompt=True, **tokens)
    except TemplateError as error:
        raise _error("chat template", f"cannot be rendered: {error}") from error
