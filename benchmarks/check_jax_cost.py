"""What `gradaudit check` costs in jax: cold analysis of losses of growing size, and the whole audit.

    python benchmarks/check_jax_cost.py

Cold: nothing is known of any primitive. `analysis` is tracing, flattening, probing and writing the tape; `audit` adds
the run with its gradient, the rules and the proof.
"""

from __future__ import annotations

import os
import time
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

import gradaudit
from gradaudit.dynamic.jax_leaves import Leaves
from gradaudit.dynamic.jax_probe import Probe
from gradaudit.dynamic.jax_program import trace
from gradaudit.dynamic.jax_tape import Writer
from gradaudit.dynamic.recording import LossCall
from gradaudit.dynamic.roles import Roles
from gradaudit.tape import Tape


def network(key: Any) -> list[dict[str, Any]]:
    sizes = (8, 64, 64, 4)
    keys = jax.random.split(key, 3)
    return [
        {"w": jax.random.normal(k, (i, o)), "b": jnp.zeros(o)} for k, i, o in zip(keys, sizes, sizes[1:], strict=False)
    ]


def apply(layers: list[dict[str, Any]], x: Any) -> Any:
    for layer in layers[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ layers[-1]["w"] + layers[-1]["b"]


def loss_of(steps: int) -> Any:
    def loss(params: dict[str, Any], obs: Any, reward: Any) -> Any:
        back, total = apply(params["target"], obs).max(-1), 0.0
        for t in range(steps):
            back = reward + 0.99 * (0.1 * apply(params["target"], obs + t).max(-1) + 0.9 * back)
            total = total + jnp.mean((apply(params["online"], obs + t).max(-1) - back) ** 2)
        return total

    return loss


def main() -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    params = {"online": network(keys[0]), "target": network(keys[1])}
    inputs = (params, jax.random.normal(keys[2], (256, 8)), jax.random.normal(keys[3], (256,)))
    print(f"{'steps':>5} {'equations':>9} {'analysis':>9} {'audit':>9}")
    for steps in (1, 5, 24):
        loss = loss_of(steps)
        start = time.perf_counter()
        program = trace(LossCall("loss", loss, inputs, names=("params", "obs", "reward")), Roles(), Probe())
        Writer(program.flat, Tape("jax"), program.lines, Leaves(program).leaf).run()
        analysis = time.perf_counter() - start
        start = time.perf_counter()
        report = gradaudit.check(loss, inputs, frozen="params.target", trained="params.online")
        audit = time.perf_counter() - start
        assert report.findings
        print(f"{steps:>5} {len(program.flat.steps):>9} {analysis:>8.2f}s {audit:>8.2f}s")


if __name__ == "__main__":
    main()
