"""A decision that is interrupted ends its episodes: half of a step is never taken twice."""

import pytest

from support.builders import make_lively_actor_critic
from vdt import Policy
from vdt.agent.agent import Agent


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_decision_asks_for_a_reset(
    interruption: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Policy(make_lively_actor_critic())
    policy.reset()
    steps = [policy.act([3.0, 1.0]), policy.act([2.0, 1.0], 1.0)]

    def interrupt(_: Agent) -> None:
        raise interruption

    with monkeypatch.context() as patched:
        patched.setattr(Agent, "decide", interrupt)
        with pytest.raises(interruption):
            policy.act([1.0, 1.0], 1.0)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"call reset\(\) before act\(\): .* an interrupted act\(\) ended it"):
            policy.act([1.0, 1.0], 1.0)
    policy.reset()
    assert [policy.act([3.0, 1.0]), policy.act([2.0, 1.0], 1.0)] == steps
