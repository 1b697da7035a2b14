"""Vectors are quantised, and what comes of them is measured beside the quantiser's own loss."""

import torch
from fixture import Nearest
from torch import nn

encoder, quantiser = nn.Linear(3, 4), Nearest(5, 4)
hard, loss = quantiser(encoder(torch.randn(6, 3)))
loss = loss + hard.pow(2).mean()
loss.backward()
