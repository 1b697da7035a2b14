"""A network in an environment that gives tensors: batches are collected and learnt from in turn."""

import torch
from fixture import Algorithm
from torch import nn


class Walk:
    def reset(self):
        return torch.randn(1, 3)

    def step(self, action):
        return torch.randn(1, 3), torch.rand(1)


algorithm = Algorithm(nn.Linear(3, 2), Walk())
for _ in range(2):
    algorithm.update(algorithm.collect())
