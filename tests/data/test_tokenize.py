"""Text to ids: padding apart from end-of-text, end-of-text on every answer, one set of ids."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from toolkit.data.tasks import make_task
from toolkit.data.template import make_template
from toolkit.data.tokenize import load_text, make_text
from toolkit.spec.errors import DataError, SpecError
from toolkit.spec.schema import Task, Text


def test_padding_is_added_behind_the_softmax(byte_tokenizer: Path) -> None:
    text = load_text(byte_tokenizer)
    assert (text.vocab, text.eos_id, text.pad_id, text.pad) == (257, 256, 257, "<|pad|>")
    assert len(text.tokenizer) == text.vocab + 1


def test_padding_equal_to_end_of_text_is_replaced(byte_tokenizer: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(byte_tokenizer, tmp_path / "t")
    config = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    text = load_text(folder)
    assert text.pad_id == 257 != text.eos_id


def test_own_padding_is_kept(byte_tokenizer: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(byte_tokenizer, tmp_path / "t")
    config = {"eos_token": "<|endoftext|>", "pad_token": {"content": "!"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    text = load_text(folder)
    assert text.pad == "!"
    assert (text.pad_id < text.vocab, text.vocab) == (True, 257)


def test_responses_end_with_end_of_text_and_prompts_do_not(byte_tokenizer: Path) -> None:
    text = load_text(byte_tokenizer)
    assert text.encode_response("Hi")[-1] == text.eos_id
    assert text.eos_id not in text.encode_prompt("Hi")
    assert text.encode_response("Hi").count(text.eos_id) == 1


def test_decoding_stops_at_end_of_text_and_says_so(byte_tokenizer: Path) -> None:
    text = load_text(byte_tokenizer, Text(template="{prompt}{response}"))
    ids = text.encode_response("Hi!")
    assert text.decode_response([*ids, *text.encode_response("more"), text.pad_id]) == ("Hi!", True)
    assert text.decode_response([*ids[:-1], text.pad_id, text.pad_id]) == ("Hi!", False)
    assert text.decode_response([]) == ("", False)


def test_a_space_before_the_response_is_tokenized_with_it(byte_tokenizer: Path) -> None:
    text = load_text(byte_tokenizer, Text(template="Q: {prompt} A: {response}"))
    whole = text.backend.encode("Q: hi A: yes", add_special_tokens=False).ids
    assert text.encode_prompt("hi") + text.encode_response("yes")[:-1] == whole
    assert text.encode_prompt("hi") == text.backend.encode("Q: hi A:", add_special_tokens=False).ids
    assert text.decode_response(text.encode_response("yes")) == ("yes", True)


def test_braces_in_a_prompt_are_left_alone(byte_tokenizer: Path) -> None:
    text = load_text(byte_tokenizer, Text(template="{prompt}\n{response}"))
    assert text.template.render_prompt('{"a": {response}}') == '{"a": {response}}\n'


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{prompt}", "must hold {prompt} and {response} once each"),
        ("{prompt} {response} {response}", "must hold {prompt} and {response} once each"),
        ("{prompt} {response} end", "must end in {response}"),
        ("chat", "the tokenizer has no chat template"),
        ("missing.jinja", "cannot be read"),
    ],
)
def test_wrong_templates_are_refused(template: str, message: str, byte_tokenizer: Path) -> None:
    with pytest.raises(SpecError, match=r"text\.template") as caught:
        load_text(byte_tokenizer, Text(template=template))
    assert message in str(caught.value)


def test_chat_templates_open_the_answer(byte_tokenizer: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(byte_tokenizer, tmp_path / "t")
    source = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    source += "{% if add_generation_prompt %}[assistant] {% endif %}"
    (folder / "chat_template.jinja").write_text(source)
    text = load_text(folder, Text(template="chat"))
    assert text.template.render_prompt("Hi") == "[user] Hi\n[assistant] "
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    assert text.template.render_prompt("", turns) == "[system] Be kind.\n[user] Hi\n[assistant] "
    expected = text.tokenizer.apply_chat_template(
        turns, chat_template=source, tokenize=False, add_generation_prompt=True
    )
    assert text.template.render_prompt("", turns) == expected


def test_a_saved_folder_loads_the_same_here_and_in_transformers(
    byte_tokenizer: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    text = load_text(byte_tokenizer, Text(template="Q {prompt} A {response}"))
    text.save(tmp_path / "a")
    again = load_text(tmp_path / "a", Text())
    again.save(tmp_path / "b")
    for folder in ("a", "b"):
        plain = AutoTokenizer.from_pretrained(tmp_path / folder)
        assert (len(plain), plain.pad_token_id, plain.eos_token_id) == (258, 257, 256)
        assert plain("Hi!")["input_ids"] == text.backend.encode("Hi!").ids
    assert (again.vocab, again.pad_id, again.template) == (text.vocab, text.pad_id, text.template)
    assert again.encode_prompt("x") == text.encode_prompt("x")


@pytest.mark.parametrize("name", ["sort", "facts"])
def test_task_tokenizers_cover_the_task_and_refuse_the_rest(name: str, tmp_path: Path) -> None:
    task = make_task(
        Task(name=name, demonstrations=200, prompts=200, valid_prompts=50, pretrain=200)
    )
    text = make_text(task.tokenizer(), make_template(None, default=task.template), "<|endoftext|>")
    assert text.vocab == text.pad_id == text.eos_id + 1 <= 151
    for prompt, response in task.demonstrations():
        assert text.decode_response(text.encode_response(response)) == (response, True)
        assert len(text.encode_prompt(prompt)) <= 10
    assert all(text.round_trips(line) for line in task.pretrain())
    with pytest.raises(ValueError, match="has no token for a part of"):
        text.encode_prompt("Z\u00fcrich")
    text.save(tmp_path)
    assert load_text(tmp_path).encode_prompt("a" if name == "sort" else "ant") != []


def test_an_empty_tokenizer_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE({}, [])).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    with pytest.raises(DataError, match="empty tokenizer"):
        load_text(tmp_path)


def test_a_tokenizer_that_drops_all_text_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE({"\x01": 0, "<|endoftext|>": 1}, [])).save(
        str(tmp_path / "tokenizer.json")
    )
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    with pytest.raises(DataError, match="encodes text to nothing"):
        load_text(tmp_path)


def test_a_folder_without_tokenizer_or_end_of_text_is_refused(
    byte_tokenizer: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"has no tokenizer\.json"):
        load_text(tmp_path)
    shutil.copyfile(byte_tokenizer / "tokenizer.json", tmp_path / "tokenizer.json")
    with pytest.raises(DataError, match="names no eos_token"):
        load_text(tmp_path)


@pytest.mark.realdata
def test_gpt2_gets_padding_as_id_50257(realdata: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    text = load_text(realdata / "gpt2-bpe")
    assert (text.vocab, text.eos_id, text.pad_id) == (50257, 50256, 50257)
    assert text.encode_response("Hello world, InstructGPT!") == [
        15496,
        995,
        11,
        20689,
        38,
        11571,
        0,
        50256,
    ]
    assert text.round_trips("Hello world, InstructGPT!")
    text.save(tmp_path)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert (len(plain), plain.pad_token_id, plain.eos_token_id) == (50258, 50257, 50256)
    assert plain("Hello world, InstructGPT!")["input_ids"] == [15496, 995, 11, 20689, 38, 11571, 0]
    assert load_text(tmp_path).vocab == 50257


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("tokenizer.json", "has a tokenizer.json that cannot be read"),
        ("tokenizer_config.json", "has a tokenizer_config.json that is no JSON object"),
    ],
)
def test_a_torn_tokenizer_file_is_a_sentence(
    byte_tokenizer: Path, tmp_path: Path, file: str, message: str
) -> None:
    folder = shutil.copytree(byte_tokenizer, tmp_path / "t")
    (folder / file).write_text("{")
    with pytest.raises(DataError, match=message):
        load_text(folder)
