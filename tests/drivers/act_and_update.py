"""Episodes of an agent that keeps what it did, and updates between them."""

import torch
from fixture import Agent

agent = Agent()
for _ in range(3):
    for _ in range(4):
        agent.act(torch.randn(3))
        agent.rewards.append(1.0)
    agent.update()
