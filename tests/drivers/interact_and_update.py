"""Episodes that the fixture plays, and updates between them."""

import torch
from fixture import Agent, interact

agent = Agent()
for _ in range(2):
    interact(agent, lambda: torch.randn(3))
    agent.update()
