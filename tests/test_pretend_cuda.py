"""The pipeline on device "cuda" without a GPU (tests/pretend_cuda.py): same bits, no mixes."""

import dataclasses

import pytest
import torch
from torch.nn.functional import gelu

import rlhf_kernels as rk
import toolkit.models.heads
import toolkit.stages.experience
import toolkit.stages.shared
from tests.end_to_end import STAGES, done, run_tiny, weights
from tests.pretend_cuda import READS, MixedDevices, Pretended, PretendedParameter, pretend_cuda
from tests.stages.test_kernels_used import context
from tests.tiny import tiny_text
from toolkit import rollout
from toolkit.data.batches import collate
from toolkit.models import attention, compute, graphs, layers, recording, tables, trunk
from toolkit.models.heads import Policy
from toolkit.models.load import load_base, load_policy
from toolkit.pipeline import gpu
from toolkit.rollout import sample_answers
from toolkit.spec.schema import Hardware, ModelSource, Sampling
from toolkit.stages.ppo import PPO
from toolkit.stages.reward import Reward
from toolkit.stages.sft import Sft
from toolkit.training import optim
from toolkit.training.loop import configure
from toolkit.training.random import Stream

CUDA = "hardware.device=cuda"


@pytest.fixture
def pretended(monkeypatch):
    """A machine with a GPU, as far as the toolkit sees."""
    card = gpu.Gpu(name="Pretended", capability=(9, 0), memory=2**30, driver=(13, 0))
    monkeypatch.setattr(gpu, "find_gpu", lambda: card)
    monkeypatch.setattr(gpu, "obstacle", lambda: None)
    with pretend_cuda(monkeypatch) as mode:
        yield mode


@pytest.fixture(scope="module", autouse=True)
def same_products():
    """The same products, attention, activation, layers and sums on both: bits are compared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compute, "_is_amd", lambda: False)
        patch.setattr(attention, "_is_plainly_causal", lambda *_: False)
        patch.setattr(layers, "_is_taken", lambda *_: False)
        patch.setattr(trunk, "plan_pass", lambda *_: None)
        patch.setattr(trunk, "layer_weights", lambda *_: None)
        patch.setattr(tables, "_FEW", 0)
        patch.setattr(optim, "are_joined", lambda _: False)
        patch.setattr(rk, "gelu_tanh", lambda x: gelu(x, approximate="tanh"))
        yield


@pytest.fixture(autouse=True)
def same_looks(monkeypatch):
    """Ended sequences leave at the same token on both: a batch's size may change the last bit.

    A pretended GPU records no graphs either, whose attention is over more positions.
    """
    monkeypatch.setattr(rollout, "_LOOK", 1)
    monkeypatch.setattr(graphs, "wanted", lambda policy, tokens: False)


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory):
    out = tmp_path_factory.mktemp("cpu") / "run"
    run_tiny(out, "hardware.device=cpu")
    return out


def ready(on_cpu, kind, work, *overrides):
    """A stage on the GPU after setup."""
    made = context(on_cpu / "stages", kind, work, *overrides)
    stages = {"sft": Sft, "reward": Reward, "ppo": PPO}
    ctx = dataclasses.replace(made, device="cuda", work=work)
    configure(ctx)
    work.mkdir()
    stage = stages[kind](ctx)
    stage.setup()
    return stage


def test_the_pipeline_on_cuda_ends_in_the_bits_of_the_cpu(on_cpu, tmp_path, pretended):
    outcome = run_tiny(tmp_path / "run", CUDA)
    assert weights(tmp_path / "run") == weights(on_cpu)
    for stage in STAGES:
        there = done(tmp_path / "run", stage)
        assert there["summary"].keys() == done(on_cpu, stage)["summary"].keys()
        assert there["device_memory"] == 1
    for name in ("pretrain", "sft", "reward.1", "ppo.1", "evaluate"):
        assert done(tmp_path / "run", name)["summary"] == done(on_cpu, name)["summary"], (
            f"{name} differs"
        )
        assert done(tmp_path / "run", name)["parts"]["hardware"]["device"] == "cuda Pretended"
    assert {d.action for d in outcome.decisions} == {"runs"}
    assert {d.action for d in run_tiny(tmp_path / "run", CUDA).decisions} == {"cached"}
    for op in ("linear_ppo_loss_", "linear_logprobs", "gae", "ranking_loss", "value_loss"):
        assert pretended.calls[f"rlhf_kernels::{op}"] > 0, op
    assert pretended.calls["linear"] > 0


@pytest.mark.parametrize("kind", ["sft", "reward", "ppo"])
def test_a_stopped_stage_goes_on_from_its_checkpoint(on_cpu, tmp_path, pretended, kind):
    first = ready(on_cpu, kind, tmp_path / "a")
    first.step(0)
    path = tmp_path / "state.pt"
    torch.save(first.state(), path)
    second = ready(on_cpu, kind, tmp_path / "b")
    second.restore(torch.load(path, map_location="cpu", weights_only=True))
    assert first.step(1) == second.step(1)


@pytest.mark.parametrize("kind", ["sft", "reward", "ppo"])
def test_the_cpu_waits_as_often_for_many_micro_batches_as_for_one(
    on_cpu, tmp_path, pretended, kind
):
    """Reads of a step come after its micro-batches, whatever their number."""
    reads = {}
    for size in ("null", "4"):
        stage = ready(on_cpu, kind, tmp_path / size, f"hardware.micro_batch={size}")
        pretended.reads.clear()
        pretended.calls.clear()
        stage.step(0)
        reads[size] = (dict(pretended.reads), pretended.calls["layer_norm"])
    assert reads["4"][1] > reads["null"][1] > 0
    assert reads["4"][0] == reads["null"][0]
    assert sum(reads["4"][0].values()) > 0


@pytest.mark.parametrize(
    "override",
    ["hardware.precision=bf16", "hardware.gradient_checkpointing=true", "ppo.kl.place=loss",
     "hardware.micro_batch=3", "ppo.whiten=both"],
)  # fmt: skip
def test_other_settings_mix_nothing_either(on_cpu, tmp_path, pretended, override):
    extra = ["ppo.kl.estimator=k3"] if override == "ppo.kl.place=loss" else []
    assert ready(on_cpu, "ppo", tmp_path / "w", override, *extra).step(0)["lr"] > 0


def test_a_tensor_left_on_the_cpu_is_named(on_cpu, tmp_path, pretended, monkeypatch):
    stage = ready(on_cpu, "ppo", tmp_path / "w")
    monkeypatch.setattr(toolkit.stages.experience, "move", lambda tensor, device: tensor)
    with pytest.raises(MixedDevices, match="rlhf_kernels::shaped_rewards: got tensors on cuda"):
        stage.step(0)


def test_token_ids_left_on_the_cpu_are_named(on_cpu, tmp_path, pretended, monkeypatch):
    stage = ready(on_cpu, "sft", tmp_path / "w")
    monkeypatch.setattr(toolkit.models.heads, "move", lambda tensor, device: tensor)
    with pytest.raises(MixedDevices, match="embedding: got tensors on cuda and CPU tensors"):
        stage.step(0)


def test_a_model_left_on_the_cpu_is_named(on_cpu, tmp_path, pretended, monkeypatch):
    monkeypatch.setattr(toolkit.stages.shared, "load_policy", lambda f, t, d: load_policy(f, t))
    with pytest.raises(MixedDevices, match="ran on the CPU, its arguments were left there"):
        ready(on_cpu, "sft", tmp_path / "w").step(0)


def test_a_parameter_left_behind_is_named(on_cpu, tmp_path, pretended):
    stage = ready(on_cpu, "sft", tmp_path / "w")
    head = stage.model.transformer.ln_f
    head.bias = torch.nn.Parameter(torch.zeros(32))
    with pytest.raises(MixedDevices, match="layer_norm: got tensors on cuda and CPU tensors"):
        stage.step(0)


def test_pretended_tensors_behave_as_those_on_a_gpu(pretended):
    there = torch.ones(2, 3, device="cuda")
    here = torch.ones(2, 3)
    assert isinstance(there + 1, Pretended)
    assert (there * torch.tensor(2.0)).sum().item() == 12
    assert type(there.cpu() + here) is torch.Tensor
    assert here.to("cuda").device == there.device == torch.device("cuda", 0)
    model = torch.nn.Linear(3, 1).to("cuda")
    assert isinstance(model.weight, PretendedParameter)
    model(there).sum().backward()
    assert model.weight.grad.is_cuda
    copied = here.to("cuda")
    copied += 1
    assert here.tolist() == torch.ones(2, 3).tolist()
    for mix in (
        lambda: there + here,
        lambda: torch.cat([there, here]),
        lambda: there[torch.tensor([0])],
        lambda: model(here),
        lambda: there.numpy(),
        lambda: torch.rand(2, device="cuda", generator=torch.Generator()),
    ):
        with pytest.raises(MixedDevices):
            mix()


def answers_and_logprobs(architecture, device):
    """Sample with top-k, top-p and left padding; read the answers' log-probs."""
    text = tiny_text()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    source = ModelSource(architecture=architecture, config=sizes)
    model = load_base(source, text, Stream(1, "base"), device)
    policy = Policy(model, text.vocab, Hardware(), 0.7)
    prompts = [[0, 1, 8], [2, 8], [3, 4, 5, 6, 8]]
    answers = sample_answers(
        policy,
        text,
        prompts,
        sampling=Sampling(temperature=0.7, top_k=5, top_p=0.9),
        draws=(Stream(1, "x"), "answer", range(3)),
        max_response=20,
    )
    batch = collate(prompts, answers.ids, text.pad_id)
    kept = (answers.logprobs, answers.entropy)
    values = [tensor.tolist() for tensor in (*kept, *policy.logprobs(batch))]
    return answers.ids, answers.finished, values


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt_neox", "gemma2"])
def test_other_architectures_answer_and_score_as_on_the_cpu(monkeypatch, architecture):
    """Rotary positions, other caches, a soft-capped head."""
    here = answers_and_logprobs(architecture, "cpu")
    with pretend_cuda(monkeypatch) as mode:
        there = answers_and_logprobs(architecture, "cuda")
    assert mode.calls["linear"] > 0
    assert there == here


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt_neox", "gemma2", "mistral"])
def test_recorded_steps_mix_nothing_and_read_no_number(monkeypatch, architecture):
    """Whatever a step reads on the CPU, in our lines or in transformers', no graph can hold."""
    here = answers_and_logprobs(architecture, "cpu")
    ran = []
    with pretend_cuda(monkeypatch) as mode:

        def capture(step, aside, pool):
            def run():
                before = {name: mode.calls[name] for name in READS}
                step()
                ran.append({name for name in READS if mode.calls[name] != before[name]})

            aside()
            run()
            return run

        monkeypatch.setattr(graphs, "wanted", lambda policy, tokens: tokens >= 8)
        monkeypatch.setattr(recording, "capture", capture)
        monkeypatch.setattr(recording, "new_pool", lambda: None)
        there = answers_and_logprobs(architecture, "cuda")
    assert len(ran) > 8
    assert not set().union(*ran)
    assert there[:2] == here[:2]
    for mine, other in zip(there[2], here[2], strict=True):
        torch.testing.assert_close(torch.tensor(mine), torch.tensor(other), rtol=0, atol=1e-5)
