"""A tokenizer of eight letters and a model of two layers."""

from toolkit.data.tasks.base import EOS, make_character_tokenizer
from toolkit.data.template import make_template
from toolkit.data.tokenize import Text, make_text
from toolkit.models.load import load_base
from toolkit.spec.schema import ModelSource
from toolkit.training.random import Stream


def tiny_text() -> Text:
    """Letters a-h, '>', end-of-text 9, and padding 10 outside the softmax."""
    template = make_template("{prompt}{response}", default=None, chat=None, tokens={})
    return make_text(make_character_tokenizer("abcdefgh>"), template, EOS)


def tiny_source(**changes) -> ModelSource:
    """A GPT-2 of two layers."""
    config = {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 32, **changes}
    return ModelSource(architecture="gpt2", config=config)


def tiny_model(text: Text, **changes):
    """The model, dropout off."""
    return load_base(tiny_source(**changes), text, Stream(1, "base")).eval()
