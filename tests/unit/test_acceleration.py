"""Lower precision changes the speed, and the numbers no more than it must."""

import pytest
import torch

from builders_for_tests import make_brain, make_buffer, make_config, make_dataset, make_tiny_sampler
from vdt.config import ConfigError, resolve_config
from vdt.training.update import compute_policy_losses


def test_bfloat16_passes_give_float32_losses_close_to_the_exact_ones() -> None:
    dataset = make_dataset((7, 5))
    batch = make_tiny_sampler(make_buffer(dataset)).sample_sequences(8, 4)
    losses = {}
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        config = make_config({"runtime.precision": precision, "policy.dropout": 0.0})
        losses[precision], _ = compute_policy_losses(make_brain(config, dataset), batch, config.actor)
    exact, rounded = vars(losses["float32"]), vars(losses["bfloat16"])
    for name in ("total", "behavior", "next_observation"):
        assert rounded[name].dtype == torch.float32
        torch.testing.assert_close(rounded[name], exact[name], rtol=0.05, atol=0.01)
    assert not torch.equal(rounded["behavior"], exact["behavior"])  # it was rounded


@pytest.mark.parametrize("setting", ["runtime.precision=float16"])
def test_other_words_are_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=setting.split("=")[0]):
        resolve_config("walker2d-medium-v2", overrides=setting)
