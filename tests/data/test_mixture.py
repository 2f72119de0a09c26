"""The mixture of demonstrations and pretraining text: shares, epochs, positions."""

import pytest

from toolkit.data.mixture import Mixture


def test_without_text_an_epoch_is_whole_batches():
    mixture = Mixture(32, 0.0)
    assert [mixture.steps(n) for n in (1, 32, 33)] == [1, 1, 2]
    assert mixture.texts(7) == 0


def test_a_tenth_of_32_is_3_or_4_pieces_and_16_in_five_batches():
    mixture = Mixture(32, 0.1)
    assert [mixture.texts(p) for p in range(10)] == [3, 3, 4, 3, 3, 3, 3, 4, 3, 3]
    assert mixture.texts_before(5) == 16
    assert mixture.demonstrations_before(5) == 144


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("batch", [1, 4, 32])
def test_an_epoch_has_each_demonstration_and_its_share_of_text(share, batch):
    mixture, demonstrations = Mixture(batch, share), 1000
    steps = mixture.steps(demonstrations)
    assert mixture.demonstrations_before(steps - 1) < demonstrations
    assert mixture.demonstrations_before(steps) >= demonstrations
    assert mixture.texts_before(steps) / (steps * batch) == pytest.approx(share, abs=1 / steps)
