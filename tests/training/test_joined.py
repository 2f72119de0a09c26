"""Parameters side by side: the same steps, whatever is done to the model in between."""

import copy

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import tiny_model, tiny_text
from toolkit.models.load import load_policy, make_scalar
from toolkit.models.save import save_model
from toolkit.spec import schema
from toolkit.training import joined
from toolkit.training.joined import are_joined
from toolkit.training.optim import make_updater
from toolkit.training.random import Stream

CONFIG = schema.Optimizer(weight_decay=0.1, clip_norm=1.0)
PLAN = schema.Schedule(name="cosine", floor=0.1, warmup=2)


def make(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(5, 7), torch.nn.LayerNorm(7), torch.nn.Linear(7, 3, bias=False)
    )


def updater_of(model):
    return make_updater(model, CONFIG, 0.1, PLAN, 20)


def differentiate(model, step):
    draw = torch.Generator().manual_seed(step)
    x = torch.randn(6, 5, generator=draw) * (0.01 if step % 2 else 5.0)
    model(x).square().sum().backward()


def run(model, updater, steps):
    norms = []
    for step in steps:
        differentiate(model, step)
        norms.append(updater.step(lambda _: None))
    return norms


def same(one, other):
    return all(map(torch.equal, one.parameters(), other.parameters()))


def test_steps_are_those_of_the_parameters_apart(monkeypatch):
    one, other = make(), make()
    ours = updater_of(one)
    monkeypatch.setattr(joined, "_MOST", 0)
    apart = updater_of(other)
    assert [len(j.parameters) for j in ours.joined] == [2, 3]
    assert apart.joined == []
    norms = run(one, ours, range(12))
    assert norms == pytest.approx(run(other, apart, range(12)), rel=1e-4)
    assert min(norms) < 1.0 < max(norms)  # clipped and not
    for ours_, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours_, theirs, rtol=1e-4, atol=1e-6)
    assert not same(one, make())


def test_gradients_are_zero_after_a_step_and_their_norm_is_that_of_all():
    model = make()
    updater = updater_of(model)
    differentiate(model, 0)
    squares = sum(float(p.grad.double().square().sum()) for p in model.parameters())
    assert updater.grad_norm() == pytest.approx(squares**0.5)
    assert updater.step(lambda _: None) == pytest.approx(squares**0.5)
    assert not any(p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("where", ["elsewhere", "nowhere"])
def test_gradients_that_were_put_elsewhere_or_taken_away_count(where):
    """As the pretraining term does, which keeps PPO's while it makes its own."""
    one, other = make(), make()
    ours, theirs = updater_of(one), updater_of(other)
    for model in (one, other):
        differentiate(model, 0)
    for mine, plain in zip(one.parameters(), other.parameters(), strict=True):
        if where == "elsewhere":
            mine.grad = 3.0 * mine.grad
            plain.grad.mul_(3.0)
        else:
            mine.grad = None
            plain.grad.zero_()
    assert ours.grad_norm() == theirs.grad_norm()
    assert ours.step(lambda _: None) == theirs.step(lambda _: None)
    assert same(one, other)
    assert (where == "nowhere") == same(one, decayed(make()))
    run(one, ours, range(1, 3))
    run(other, theirs, range(1, 3))
    assert same(one, other)


@torch.no_grad()
def decayed(model):
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.mul_(1 - 0.05 * 0.1)  # half of the rate in the first step
    return model


def test_weights_that_somebody_changed_are_where_the_next_step_starts():
    model = make()
    updater = updater_of(model)
    run(model, updater, range(3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(100.0)
    model.load_state_dict({name: x + 1.0 for name, x in model.state_dict().items()})
    run(model, updater, range(3, 4))
    assert all((p - 101.0).abs().max() < 2.0 for p in model.parameters())


def test_a_restored_updater_goes_on_to_the_same_bits(tmp_path):
    whole, cut, again = make(), make(), make(seed=1)
    run(whole, updater_of(whole), range(8))
    first = updater_of(cut)
    run(cut, first, range(5))
    torch.save([cut.state_dict(), first.state()], tmp_path / "state.pt")
    second = updater_of(again)
    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    again.load_state_dict(weights)
    second.restore(state)
    run(again, second, range(5, 8))
    assert same(whole, again)


def test_a_copy_of_the_model_stays_as_it_is():
    model = make()
    updater = updater_of(model)
    copied, before = copy.deepcopy(model), make()
    run(model, updater, range(2))
    assert same(copied, before)
    assert not same(model, before)


def test_a_graph_from_before_a_step_is_an_error_after_it():
    model = make()
    updater = updater_of(model)
    loss = model(torch.ones(2, 5)).square().sum()
    run(model, updater, range(1))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_gradient_that_is_not_a_number_never_reaches_the_weights():
    model = make()
    updater = updater_of(model)
    differentiate(model, 0)
    model[1].bias.grad[3] = torch.nan

    def refuse(norm):
        assert norm != norm
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        updater.step(refuse)
    assert same(model, make())


def test_frozen_parameters_take_no_part():
    model = make()
    model[0].weight.requires_grad_(False)
    updater = updater_of(model)
    run(model, updater, range(2))
    assert torch.equal(model[0].weight, make()[0].weight)
    assert sum(j.tensor.numel() for j in updater.joined) == 7 + 7 + 7 + 21


@pytest.mark.parametrize(
    "change", [lambda m: m.double(), lambda m: m.to("meta"), lambda m: m[0], lambda m: m.bfloat16()]
)
def test_other_models_are_not_joined(change):
    assert are_joined(list(make().parameters()))
    assert not are_joined(list(change(make()).parameters()))


def test_large_models_are_not_joined(monkeypatch):
    parameters = list(make().parameters())
    numbers = sum(p.numel() for p in parameters)
    for most in (numbers, numbers - 1):
        monkeypatch.setattr(joined, "_MOST", most)
        assert are_joined(parameters) == (most == numbers)


def test_a_model_whose_parameters_are_joined_is_saved_as_before(tmp_path):
    text = tiny_text()
    save_model(tiny_model(text), tmp_path / "base", text)
    scalar = make_scalar(tmp_path / "base", text, Stream(1, "head"))
    for name, model in (("policy", tiny_model(text)), ("scalar", scalar)):
        save_model(model, tmp_path / f"{name}.apart", text)
        updater = updater_of(model)
        assert updater.joined
        save_model(model, tmp_path / name, text)
        found, wanted = (
            load_file(tmp_path / folder / "model.safetensors") for folder in (name, f"{name}.apart")
        )
        assert set(found) == set(wanted)
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    tied = load_policy(tmp_path / "policy", text)
    assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight
