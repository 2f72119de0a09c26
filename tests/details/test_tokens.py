"""Details 1 to 6: tokens and padding."""

from types import SimpleNamespace

import pytest
import torch

from tests.details.known import LN4, LN12, constant_policy
from toolkit.data.batches import collate, pad_left
from toolkit.data.tokenize import Text
from toolkit.rollout import _Reader
from toolkit.spec.schema import Sft as SftSection
from toolkit.spec.schema import Spec
from toolkit.stages.collect import Collect
from toolkit.stages.reward import Reward
from toolkit.stages.sft import Sft

EOS = 9  # p(EOS) = 3 / 12, every other token's 1 / 12: ten tokens, one with logit ln 3


def test_01_padding_has_no_loss_and_no_part_in_the_softmax(text):
    assert (text.eos_id, text.pad_id, text.vocab) == (EOS, 10, 10)
    policy = constant_policy(text, {EOS: LN12 - LN4})
    batch = collate([[0, 8], [1, 2, 8]], [[0, EOS], [1]], text.pad_id)
    assert batch.ids.tolist() == [[0, 8, 0, EOS], [1, 2, 8, 1]]
    assert batch.tokens == 3
    loss = policy.backward_text_loss(batch, batch.tokens)
    assert loss.item() == pytest.approx((LN12 + LN4 + LN12) / 3, rel=1e-6)
    longer = collate([[0, 8], [1, 2, 3, 4, 8]], [[0, EOS], [1]], text.pad_id)
    assert policy.backward_text_loss(longer, 3).item() == pytest.approx(loss.item(), rel=1e-6)


def test_02_end_of_text_is_appended_and_carries_loss(text):
    assert text.encode_response("ab") == [0, 1, EOS]
    assert text.encode_prompt("ab>") == [0, 1, 8]
    policy = constant_policy(text, {EOS: LN12 - LN4})
    batch = collate([text.encode_prompt("ab>")], [text.encode_response("ab")], text.pad_id)
    logprobs, _ = policy.logprobs(batch)
    assert logprobs.tolist() == [pytest.approx([-LN12, -LN12, -LN4], rel=1e-6)]
    loss = policy.backward_text_loss(batch, batch.tokens)
    assert loss.item() == pytest.approx((2 * LN12 + LN4) / 3, rel=1e-6)


def test_04_prompts_are_padded_left_and_sequences_right_with_positions_of_real_tokens(text):
    ids, mask = pad_left([[5], [1, 2, 3]], text.pad_id)
    assert ids.tolist() == [[10, 10, 5], [1, 2, 3]]
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]
    batch = collate([[5], [1, 2, 3]], [[7], [6, EOS]], text.pad_id)
    assert batch.ids.tolist() == [[5, 7, 10, 10, 10], [1, 2, 3, 6, EOS]]
    assert batch.source.tolist()[0][0] == 0
    assert batch.source.tolist()[1] == [2, 3]
    reader = _Reader(constant_policy(text, {}), text, [[5], [1, 2, 3]], 2)
    assert reader.mask.tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert reader.positions.tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]


def test_05_sampled_tokens_are_kept_beside_their_text_and_scored_as_they_are(text):
    drawn = {0: ([1, 0, EOS], True), 1: ([2], False)}
    stage = SimpleNamespace(
        first=[0, 2], prompts=[{"prompt": "a>", "prompt_ids": [0, 8]}], text=text, source=["s"] * 2
    )
    record = Collect._record(stage, 0, drawn)
    assert record["responses_ids"] == [[1, 0, EOS], [2]]
    assert record["responses"] == ["ba", "c"]
    other_words = {**record, "responses": ["hhhh", "hhhh"]}
    scorer = SimpleNamespace(collate=lambda *read: read)
    read = Reward._collate(SimpleNamespace(scorer=scorer), [other_words])
    assert read == ([[0, 8]], [[[1, 0, EOS], [2]]])


def test_05_ppo_learns_from_the_tokens_drawn_and_tokenizes_nothing(ppo, monkeypatch):
    stage = ppo()

    def refused(self, text):
        raise AssertionError(f"{text!r} was tokenized again")

    monkeypatch.setattr(Text, "_encode", refused)
    experience = stage._sample(0)
    rows = zip(experience.batch.response, experience.batch.mask, experience.responses, strict=True)
    for ids, mask, said in rows:
        assert stage.text.decode_response(ids[mask].tolist())[0] == said


def test_06_the_sft_loss_counts_the_response_by_default_and_all_on_request(text):
    record = {"prompt_ids": [0, 1, 8], "response_ids": [1, 0, EOS]}
    counted = {}
    for loss_on in ("response", "all"):
        spec = Spec(sft=SftSection(loss_on=loss_on))
        stage = Sft(SimpleNamespace(spec=spec, kind="sft", round=0))
        stage.text = text
        batch = stage._collate([record])
        counted[loss_on] = batch.targets.tolist()
    assert counted == {"response": [1, 0, EOS], "all": [1, 8, 1, 0, EOS]}
    assert SftSection().loss_on == "response"
    assert torch.equal(batch.ids, torch.tensor([[0, 1, 8, 1, 0, EOS]]))
