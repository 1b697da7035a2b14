"""More than one device: four of the host's, sharded inputs, shard_map, pmap. In a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jax")

PROGRAM = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.lax import stop_gradient
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import gradaudit

assert jax.device_count() == 4
mesh = Mesh(np.array(jax.devices()), ("data",))

def net(p, x):
    return jnp.tanh(x @ p["w0"] + p["b0"]) @ p["w1"]

def make(sharded):
    keys = jax.random.split(jax.random.key(0), 6)
    one = lambda a, b: {"w0": jax.random.normal(a, (5, 8)), "b0": jnp.zeros(8), "w1": jax.random.normal(b, (8,))}
    params = {"online": one(keys[0], keys[1]), "target": one(keys[2], keys[3])}
    batch = {"obs": jax.random.normal(keys[4], (12, 5)), "next_obs": jax.random.normal(keys[5], (12, 5))}
    batch["reward"] = jnp.arange(12.0)
    if sharded:
        params = jax.device_put(params, NamedSharding(mesh, P()))
        batch = jax.device_put(batch, NamedSharding(mesh, P("data")))
    return params, batch

def error(params, batch):
    goal = batch["reward"] + 0.9 * net(params["target"], batch["next_obs"])  # here
    return jnp.mean((net(params["online"], batch["obs"]) - goal) ** 2)

def right(params, batch):
    goal = stop_gradient(batch["reward"] + 0.9 * net(params["target"], batch["next_obs"]))
    return jnp.mean((net(params["online"], batch["obs"]) - goal) ** 2)

def mapped(loss):
    def whole(params, batch):
        part = lambda params, batch: jax.lax.pmean(loss(params, batch), "data")
        return jax.shard_map(part, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())(params, batch)
    return whole

def replicated(loss):
    def whole(params, batch):
        split = jax.tree.map(lambda x: x.reshape((4, 3) + x.shape[1:]), batch)
        part = lambda params, batch: jax.lax.pmean(loss(params, batch), "data")
        return jax.pmap(part, axis_name="data", in_axes=(None, 0))(params, split).mean()
    return whole

KINDS = {"jit": jax.jit, "shard_map": mapped, "pmap": replicated, "jit_shard_map": lambda loss: jax.jit(mapped(loss))}
line = next(i for i, text in enumerate(open(__file__), start=1) if text.endswith("# here\\n"))
said = {}
for name, wrap in KINDS.items():
    for loss in (error, right):
        inputs = make(sharded=name != "pmap")
        report = gradaudit.check(wrap(loss), inputs, frozen="params.target", trained="params.online")
        said[f"{name} {loss.__name__}"] = {
            "findings": [[f.code, f.location.line - line] for f in report.findings],
            "states": {group.name: group.state for group in report.groups},
            "proofs": [[p.identical, p.note, [c.group for c in p.changes]] for p in report.proofs],
            "notes": report.notes,
        }
import sys
assert "torch" not in sys.modules and "tensorflow" not in sys.modules
print("SAID" + json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    script = tmp_path_factory.mktemp("devices") / "several_devices.py"
    script.write_text(PROGRAM, encoding="utf-8")
    root = str(Path(__file__).parent.parent)
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
    }
    run = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.partition("SAID")[2])  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["jit", "shard_map", "pmap", "jit_shard_map"])
def test_devices(said: dict[str, dict[str, object]], kind: str) -> None:
    wrong, right = said[f"{kind} error"], said[f"{kind} right"]
    assert right["findings"] == [] and right["states"] == {"params.online": "nonzero", "params.target": "none"}
    assert wrong["findings"] == [["GA102", 0]]
    assert wrong["states"] == {"params.online": "nonzero", "params.target": "nonzero"}
    assert wrong["proofs"] == [[True, "", ["params.target"]]]
    assert wrong["notes"] == [] and right["notes"] == []
