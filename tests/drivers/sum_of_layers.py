"""Two layers in one network, trained for a step or two."""

import torch
from fixture import Centred, Summed

centred, summed = Centred(3), Summed(3)
for _ in range(2):
    x = torch.randn(5, 3)
    loss = (centred(x) * summed(x)).mean() + summed.penalty
    summed.penalty = 0.0
    loss.backward()
