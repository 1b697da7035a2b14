"""An encoder learns to be like one of the groups, which follow it."""

import torch
from fixture import Prototypes
from torch import nn

encoder, heads = nn.Linear(4, 4), Prototypes(torch.randn(3, 4))
for _ in range(2):
    features = encoder(torch.randn(6, 4))
    groups = heads.averaged(features.detach())
    loss = -heads(features, groups).amax(1).mean()
    loss.backward()
    heads.keep(groups)
