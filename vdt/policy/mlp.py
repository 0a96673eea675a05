"""Memoryless policy: the action from the observation alone."""

from __future__ import annotations

from torch import Tensor, nn

from vdt.config.schema import PolicyConfig
from vdt.policy.decision_transformer import PolicyOutput
from vdt.policy.gaussian import make_head
from vdt.policy.precision import call_in_float32


class MLPPolicy(nn.Module):
    """Multilayer perceptron applied to every step separately; same interface as `DecisionTransformer`."""

    def __init__(self, observation_size: int, action_size: int, config: PolicyConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in [observation_size] + [config.hidden_size] * (config.hidden_layers - 1):
            layers += [nn.Linear(inputs, config.hidden_size), nn.ReLU(), nn.Dropout(config.dropout)]
        self.network = nn.Sequential(*layers, nn.Linear(config.hidden_size, action_size), nn.Tanh())
        self.gaussian = make_head(config, config.hidden_size, action_size)

    def forward(self, observations: Tensor, actions: Tensor, returns_to_go: Tensor, timesteps: Tensor) -> PolicyOutput:
        """Predict actions at every step; all inputs but the observations are ignored."""
        features = self.network[1:-2](call_in_float32(self.network[0], observations))
        means = call_in_float32(self.network[-2], features)
        distribution = None if self.gaussian is None else call_in_float32(self.gaussian, features, means)
        return PolicyOutput(actions=self.network[-1](means), distribution=distribution)
