"""Lower precision and torch.compile change the speed, and the numbers no more than they must."""

import importlib
import shutil
from typing import Any

import pytest
import torch

from support.builders import make_actor_critic, make_buffer, make_config, make_dataset, make_tiny_sampler
from vdt.acceleration.convert import make_critic_update
from vdt.config.errors import ConfigError
from vdt.config.layers import config_from_yaml
from vdt.experiments.resolve import resolve_config
from vdt.training.update import compile_policy, compute_policy_losses, make_policy_optimizer, take_policy_step


def test_bfloat16_passes_give_float32_losses_close_to_the_exact_ones() -> None:
    dataset = make_dataset((7, 5))
    batch = make_tiny_sampler(make_buffer(dataset)).sample_sequences(8, 4)
    losses = {}
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        config = make_config({"runtime.precision": precision, "policy.dropout": 0.0})
        losses[precision], _ = compute_policy_losses(make_actor_critic(config, dataset), batch, config.actor)
    exact, rounded = vars(losses["float32"]), vars(losses["bfloat16"])
    for name in ("total", "behavior", "next_observation"):
        assert rounded[name].dtype == torch.float32
        torch.testing.assert_close(rounded[name], exact[name], rtol=0.05, atol=0.01)
    assert not torch.equal(rounded["behavior"], exact["behavior"])  # it was rounded


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("activation", ["mish", "relu"])
@pytest.mark.slow  # compiles C++
def test_compiled_updates_are_the_plain_ones(activation: str) -> None:
    dataset = make_dataset((7, 5))
    sampler = make_tiny_sampler(make_buffer(dataset))
    sequences, transitions = sampler.sample_sequences(8, 4), sampler.sample_transitions(32)
    importlib.import_module("metaflow._vendor.typing_extensions")  # as Metaflow's Runner does, after PyTorch
    fixed = {"critic.hidden_size": 32, "policy.embedding_size": 32, "policy.dropout": 0.0}  # wide enough for oneDNN
    metrics: dict[bool, dict[str, Any]] = {}
    for compiled in (False, True):
        torch.manual_seed(0)
        config = make_config({**fixed, "runtime.compile": compiled, "critic.activation": activation})
        actor_critic = make_actor_critic(config, dataset)
        actor_critic.critic.unfreeze()
        critic_update = make_critic_update(actor_critic.critic, 1e-2, config.runtime)
        compile_policy(actor_critic)
        policy_optimizer = make_policy_optimizer(actor_critic, 1e-2, 0.0)
        for _ in range(3):  # the third has what two steps changed
            critic_losses = critic_update.update(transitions)
            policy_metrics = take_policy_step(actor_critic, policy_optimizer, sequences, config.actor)
        metrics[compiled] = {**vars(critic_losses), **policy_metrics}
        assert (actor_critic.compiled_policy is not None) is compiled
    assert len(torch._dynamo.utils.counters["graph_break"]) == 0
    torch.testing.assert_close(metrics[True], metrics[False], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("setting", ["runtime.precision=float16", "runtime.compile=fast", "runtime.acceleration=on"])
def test_other_words_are_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=setting.split("=")[0]):
        resolve_config("walker2d-medium-v2", overrides=setting)


@pytest.mark.parametrize("word", ["off", "'off'"])  # YAML reads the bare word as false
def test_acceleration_can_be_off(word: str) -> None:
    config = resolve_config("walker2d-medium-v2", overrides=f"runtime.acceleration={word}")
    assert config.runtime.acceleration == "off"
    assert config_from_yaml(config.to_yaml()) == config
