"""What `check` costs: the loss of a 3-layer MLP at batch 256, against the loss and its gradient alone.

    python benchmarks/check_cost.py [--width 256 1024 2048] [--repeats 15]

Processor time of one thread. The cost is told as `fixed + ratio * (loss + gradient)`: a straight line through the
widths. "right" is a loss without a finding (one recorded run), "leak" one with a finding (a recorded run and the run
that proves it).
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from gradaudit.check import check

BATCH = 256


def program(width: int) -> tuple[dict[str, nn.Module], Callable[..., torch.Tensor], Callable[..., torch.Tensor], tuple]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 8))
    target = copy.deepcopy(net)

    def leak(obs, action, reward, next_obs):  # type: ignore[no-untyped-def]
        goal = reward + 0.99 * target(next_obs).amax(1)
        return F.mse_loss(net(obs).gather(1, action[:, None])[:, 0], goal)

    def right(obs, action, reward, next_obs):  # type: ignore[no-untyped-def]
        with torch.no_grad():
            goal = reward + 0.99 * target(next_obs).amax(1)
        return F.mse_loss(net(obs).gather(1, action[:, None])[:, 0], goal)

    inputs = (torch.randn(BATCH, 64), torch.randint(0, 8, (BATCH,)), torch.randn(BATCH), torch.randn(BATCH, 64))
    return {"net": net, "target": target}, leak, right, inputs


def timed(call: Callable[[], object], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return statistics.median(times)


def line(xs: list[float], ys: list[float]) -> tuple[float, float]:
    """Least squares: (fixed, ratio)."""
    mx, my = statistics.fmean(xs), statistics.fmean(ys)
    ratio = sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True)) / (sum((x - mx) ** 2 for x in xs) or 1.0)
    return my - ratio * mx, ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, nargs="+", default=[64, 256, 1024, 2048])
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for kind in ("right", "leak"):
        base, cost = [], []
        for width in options.width:
            nets, leak, right, inputs = program(width)
            loss = leak if kind == "leak" else right

            def plain(nets=nets, loss=loss, inputs=inputs) -> None:  # type: ignore[no-untyped-def]
                for net in nets.values():
                    net.zero_grad(set_to_none=True)
                loss(*inputs).backward()

            base.append(timed(plain, options.repeats))
            cost.append(timed(lambda loss=loss, inputs=inputs: check(loss, inputs, frozen="target"), options.repeats))
            print(f"{kind:5} width {width:5}: loss+gradient {1e3 * base[-1]:8.2f} ms   check {1e3 * cost[-1]:8.2f} ms")
        fixed, ratio = line(base, cost)
        print(f"{kind:5} check = {1e3 * fixed:.1f} ms + {ratio:.2f} x (loss + gradient)\n")


if __name__ == "__main__":
    main()
