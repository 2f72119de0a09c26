"""Text to token ids and back, the same in every stage, without torch.

    prompt ids   = what stands before the response, through the template; no end-of-text
    response ids = the response, then end-of-text; the same ids in SFT, ranking and rollout
    V            = `vocab`, the width of the softmax; padding has no part in it

When the tokenizer has no padding token, or it equals end-of-text, <|pad|> is added as id V: the
embedding has V + 1 rows, and the softmax reads logits[..., :V].
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.data.template import Message, Template, load_chat_template, make_template
from toolkit.spec.errors import DataError, Problem

if TYPE_CHECKING:
    import tokenizers
    import transformers

    from toolkit.spec import schema

PAD = "<|pad|>"
_KEPT_FILES = ("chat_template.jinja", "vocab.json", "merges.txt", "special_tokens_map.json")


@dataclass(frozen=True)
class Text:
    """A tokenizer and a template: everything between text and token ids.

    Args:
        backend: the Rust tokenizer; padding and truncation are off.
        template: how prompt and response become text.
        eos: end-of-text token.
        pad: padding token, never equal to `eos`.
        eos_id: id of end-of-text, below `vocab`.
        pad_id: id of padding.
        vocab: V, the width of the softmax; equals `pad_id` when padding is the last id.
        folder: where it was loaded from; None when made by a task.
    """

    backend: tokenizers.Tokenizer
    template: Template
    eos: str
    pad: str
    eos_id: int
    pad_id: int
    vocab: int
    folder: Path | None = None

    @cached_property
    def tokenizer(self) -> transformers.PreTrainedTokenizerBase:
        """Return the transformers tokenizer for this text (imports transformers)."""
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast(
            tokenizer_object=self.backend,
            eos_token=self.eos,
            pad_token=self.pad,
            clean_up_tokenization_spaces=False,
        )

    @cached_property
    def specials(self) -> tuple[str, ...]:
        """Return the special tokens, whose text no record may hold."""
        added = self.backend.get_added_tokens_decoder()
        return tuple(token.content for token in added.values() if token.special)

    @cached_property
    def prefix_ids(self) -> list[int]:
        """Return what the tokenizer puts before a text by itself: begin-of-text, or nothing."""
        return list(self.backend.encode("").ids[:1])

    def find_special(self, text: str) -> str | None:
        """Return a special token that occurs in `text`, or None."""
        return next((token for token in self.specials if token in text), None)

    def encode_prompt(self, prompt: str, messages: Sequence[Message] | None = None) -> list[int]:
        """Return the ids of a raw prompt, put through the template.

        Args:
            prompt: the user's text, not yet templated.
            messages: the conversation, for a chat template.

        Raises:
            ValueError: the tokenizer has no token for a part of the text.
        """
        ids = self._encode(self.template.render_prompt(prompt, messages))
        return ids if self.template.kind == "jinja" else self.prefix_ids + ids

    def encode_response(self, response: str) -> list[int]:
        """Return the ids of a response with end-of-text appended.

        Raises:
            ValueError: the tokenizer has no token for a part of the text.
        """
        return [*self._encode(self.template.render_response(response)), self.eos_id]

    def encode_documents(self, documents: Sequence[str]) -> list[list[int]]:
        """Return the ids of whole documents, each with end-of-text appended. Uses all cores."""
        try:
            encodings = self.backend.encode_batch_fast(list(documents), add_special_tokens=False)
        except Exception as error:
            raise ValueError(f"the tokenizer cannot encode the text: {error}") from error
        return [[*encoding.ids, self.eos_id] for encoding in encodings]

    def decode_response(self, ids: Sequence[int]) -> tuple[str, bool]:
        """Return the text before end-of-text, and whether there was an end-of-text.

        Args:
            ids: response ids; everything after the first end-of-text, and all padding, is ignored.
        """
        finished = self.eos_id in ids
        kept = list(ids[: list(ids).index(self.eos_id)]) if finished else list(ids)
        kept = [index for index in kept if index != self.pad_id]
        text = self.backend.decode(kept, skip_special_tokens=False)
        return text.removeprefix(self.template.lead), finished

    def round_trips(self, text: str) -> bool:
        """Say whether `text` comes back from its ids, runs of white space aside."""
        ids = self._encode(text)
        return self.backend.decode(ids, skip_special_tokens=False).split() == text.split()

    def save(self, folder: Path) -> None:
        """Write a Hugging Face tokenizer folder that `AutoTokenizer` and `load_text` load."""
        folder.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
        if self.folder is not None:
            config = _read_json(self.folder / "tokenizer_config.json")
            for name in _KEPT_FILES:
                if (self.folder / name).exists():
                    shutil.copyfile(self.folder / name, folder / name)
        config |= {
            "eos_token": self.eos,
            "pad_token": self.pad,
            "clean_up_tokenization_spaces": False,
        }
        self.backend.save(str(folder / "tokenizer.json"))
        _write_json(folder / "tokenizer_config.json", config)
        saved = {
            "kind": self.template.kind,
            "source": self.template.source,
            "tokens": self.template.tokens,
        }
        _write_json(folder / "template.json", saved)

    def _encode(self, text: str) -> list[int]:
        try:
            return list(self.backend.encode(text, add_special_tokens=False).ids)
        except Exception as error:
            # tokenizers raises a bare Exception when a closed vocabulary lacks a word
            raise ValueError(f"the tokenizer has no token for a part of {text!r}") from error


def load_text(
    folder: str | Path, settings: schema.Text | None = None, default: str | None = None
) -> Text:
    """Load a tokenizer folder, and the template.

    Args:
        folder: Hugging Face tokenizer folder with a tokenizer.json.
        settings: `spec.text`, whose template applies; None: the one `Text.save` put in the folder.
        default: template used when `settings.template` is null, such as a task's.

    Raises:
        DataError: no tokenizer.json, an empty vocabulary, or no end-of-text token.
        SpecError: the template is wrong.
    """
    from tokenizers import Tokenizer

    folder = Path(folder)
    source = folder / "tokenizer.json"
    fix = "save a fast tokenizer there with transformers' save_pretrained"
    if not source.exists():
        raise _problem(folder, f"has no tokenizer.json; {fix}")
    try:
        backend = Tokenizer.from_file(str(source))
    except Exception as error:
        # tokenizers raises a bare Exception for whatever is wrong with the file
        raise _problem(
            folder, f"has a tokenizer.json that cannot be read ({error}); {fix}"
        ) from error
    named = _special_tokens(folder)
    if "eos_token" not in named:
        raise _problem(
            folder, "names no eos_token in tokenizer_config.json; an answer could never end"
        )
    saved = folder / "template.json"
    if saved.exists() and (settings is None or settings.template is None):
        template = Template(**_read_json(saved))
    else:
        setting = settings.template if settings is not None else None
        chat = load_chat_template(folder)
        template = make_template(setting, default=default, chat=chat, tokens=named)
    return make_text(backend, template, named["eos_token"], named.get("pad_token"), folder)


def make_text(
    backend: tokenizers.Tokenizer,
    template: Template,
    eos: str,
    pad: str | None = None,
    folder: Path | None = None,
) -> Text:
    """Make a `Text`, adding <|pad|> as the id after the last when `pad` is None or equals `eos`.

    Raises:
        DataError: the tokenizer is empty, or does not know `eos`.
    """
    backend.no_padding()
    backend.no_truncation()
    eos_id = backend.token_to_id(eos)
    where = folder or Path("tokenizer")
    if backend.get_vocab_size() < 2:
        raise _problem(where, "holds an empty tokenizer: every text would encode to nothing")
    if eos_id is None:
        raise _problem(where, f"names {eos!r} as end-of-text, and its vocabulary lacks that token")
    _refuse_silent(backend, where)
    if pad is None or pad == eos or backend.token_to_id(pad) is None:
        pad = _add_pad(backend, where)
    ids = backend.get_vocab(with_added_tokens=True)
    pad_id, last = ids[pad], max(ids.values())
    vocab = pad_id if pad_id == last else last + 1
    return Text(backend, template, eos, pad, eos_id, pad_id, vocab, folder)


def _add_pad(backend: tokenizers.Tokenizer, where: Path) -> str:
    from tokenizers import AddedToken

    if backend.token_to_id(PAD) is not None:
        return PAD
    expected = max(backend.get_vocab(with_added_tokens=True).values()) + 1
    backend.add_special_tokens([AddedToken(PAD, special=True, normalized=False)])
    if backend.token_to_id(PAD) != expected:
        got = backend.token_to_id(PAD)
        raise _problem(
            where, f"has holes in its ids: {PAD} became {got} and not {expected}; set its pad_token"
        )
    return PAD


def _refuse_silent(backend: tokenizers.Tokenizer, where: Path) -> None:
    """Refuse a tokenizer that encodes text to nothing; a closed vocabulary raises instead."""
    try:
        ids = backend.encode("Hello world, 1 and 2.", add_special_tokens=False).ids
    except Exception:
        return
    if not ids:
        raise _problem(
            where, "holds a tokenizer that encodes text to nothing; load it from its own folder"
        )


def _special_tokens(folder: Path) -> dict[str, str]:
    """Return the special tokens a folder names: {"eos_token": ..., "pad_token": ...}."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        for key, value in _read_json(folder / name).items():
            content = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(content, str):
                found[key] = content
    return found


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        message = f"has a {path.name} that is no JSON object ({error}); copy the file again"
        raise _problem(path.parent, message) from error


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _problem(folder: Path, message: str) -> DataError:
    return DataError([Problem(str(folder), 0, 0, "text.tokenizer", message)])
