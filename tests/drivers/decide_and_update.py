"""Episodes of an agent that keeps what it decided, and updates between them."""

import torch
from fixture import Agent

agent = Agent()
for _ in range(2):
    for _ in range(4):
        agent.decide(torch.randn(3))
        agent.rewards.append(1.0)
    agent.update()
