"""Policy as a module of tensors alone: a window of raw steps in, the next raw action out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vdt.agent.agent import Agent
from vdt.agent.spaces import Spaces
from vdt.data.action_range import scale_actions
from vdt.policy.decision_transformer import DecisionTransformer
from vdt.policy.networks import make_policy_network

INPUTS = ("observations", "actions", "returns_to_go", "timesteps", "mask")
OUTPUT = "action"


class TensorPolicy(nn.Module):
    """Trained policy without look-ahead; normaliser, range of actions and return scale are inside.

    B windows of K steps each are padded on the right, where any finite number may stand. A window ends with the present
    step, whose action is still open.
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, agent: Agent) -> None:
        """Copy the policy of an agent, as it acts upon its history, to the CPU."""
        super().__init__()
        actor_critic = agent.actor_critic
        config, task = actor_critic.config, actor_critic.config.task
        self.policy = make_policy_network(task.observation_size, task.action_size, task.horizon, config.policy)
        self.policy.load_state_dict(actor_critic.policy.state_dict())
        spaces, normalizer = Spaces.from_config(config), actor_critic.normalizer.to(torch.device("cpu"))
        self.register_buffer("mean", normalizer.mean)
        self.register_buffer("std", normalizer.std)
        self.clip = normalizer.clip
        self.register_buffer("low", torch.tensor(spaces.action_low))
        self.register_buffer("high", torch.tensor(spaces.action_high))
        self.has_range, self.return_scale = bool(task.action_low), task.return_scale
        self.context_length = agent.context_length
        self.forget_steps = min(agent.settings.forget_steps, self.context_length)
        self.eval().requires_grad_(False)

    def forward(
        self, observations: Tensor, actions: Tensor, returns_to_go: Tensor, timesteps: Tensor, mask: Tensor
    ) -> Tensor:
        """Return the mean action for the last real step of each window, (B, A).

        Args:
            observations: (B, K, S) float32, raw.
            actions: (B, K, A) float32, in the environment's range; the present step's is ignored, whatever it is.
            returns_to_go: (B, K) float32, in the rewards' units.
            timesteps: (B, K) int64, 0 at an episode's first step.
            mask: (B, K) bool, true for real steps, false for the padding on the right; at least one is real.
        """
        acted = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)  # (B, K), steps before the present one
        observations, actions = _blank(observations, mask[:, :, None]), _blank(actions, acted[:, :, None])
        returns_to_go, timesteps = _blank(returns_to_go, mask), _blank(timesteps, mask)
        normalized = (observations - self.mean) / self.std
        if self.clip > 0:
            normalized = normalized.clamp(-self.clip, self.clip)
        last = mask.sum(1).sub(1).view(-1, 1, 1)  # (B, 1, 1)
        if isinstance(self.policy, DecisionTransformer):
            taken = (actions - self.low) / (self.high - self.low) * 2.0 - 1.0 if self.has_range else actions
            tokens = self.policy.embed(normalized, returns_to_go / self.return_scale, timesteps, taken)
            after_observation = self.policy.transformer(tokens)[:, 1::3]  # (B, K, D)
            chosen = self.policy.predict_choice(_take(after_observation, last))[0]
        else:
            chosen = self.policy(_take(normalized, last), actions, returns_to_go, timesteps).actions
        if not self.has_range:
            return chosen
        return scale_actions(chosen, self.low, self.high).clamp(self.low, self.high)


def _blank(rows: Tensor, kept: Tensor) -> Tensor:
    """Put zeros where `kept` is false: attention gives padding no weight, but 0 times infinity is NaN."""
    return rows.masked_fill(~kept, 0)


def _take(rows: Tensor, last: Tensor) -> Tensor:
    """Return the row of each window's last real step: (B, K, D), (B, 1, 1) -> (B, D)."""
    return rows.gather(1, last.expand(-1, 1, rows.shape[2]))[:, 0]
