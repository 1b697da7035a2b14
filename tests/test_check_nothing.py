"""What is no parameter is not audited: a loss of a batch alone, a role that is stated of a buffer or of statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradaudit.check import CheckReport, check
from gradaudit.errors import CheckError

ROWS = np.ones((4, 3), np.float32), np.zeros((4, 3), np.float32)


def loss(one: Any, other: Any) -> Any:
    return ((one - other) ** 2).mean()


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_a_batch_alone(framework: str) -> None:
    module = pytest.importorskip(framework)
    make = module.from_numpy if framework == "torch" else module.numpy.asarray
    with pytest.raises(CheckError, match="nothing to audit"):
        check(loss, tuple(map(make, ROWS)), framework=framework)


def test_what_jax_is_to_differentiate() -> None:
    """Of a batch what `argnums` says; a weight's first axis is another one than the batch's."""
    numpy = pytest.importorskip("jax.numpy")
    assert check(loss, tuple(map(numpy.asarray, ROWS)), argnums=0).ok
    assert check(lambda w, x, y: ((x @ w - y[:, 0]) ** 2).mean(), (numpy.ones(3), *map(numpy.asarray, ROWS))).ok


def torch_model() -> tuple[Any, Any]:
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(3, 2)
    model.register_buffer("centre", torch.ones(2))

    def loss_of(net: Any, rows: Any) -> Any:
        return ((net(rows) - net.centre) ** 2).mean()

    return loss_of, (model, torch.ones(4, 3))


def nnx_model() -> tuple[Any, Any]:
    nnx = pytest.importorskip("flax.nnx")
    import jax.numpy as jnp

    class Model(nnx.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.linear = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
            self.centre = nnx.BatchStat(jnp.ones(2))

    def loss_of(net: Any, rows: Any) -> Any:
        return ((net.linear(rows) - net.centre[...]) ** 2).mean()

    return loss_of, (Model(), jnp.ones((4, 3)))


@pytest.mark.parametrize("make", [torch_model, nnx_model])
def test_a_role_of_state(make: Any) -> None:
    loss_of, inputs = make()
    report: CheckReport = check(loss_of, inputs, frozen="net.centre")
    assert report.ok and any("`net.centre` is state" in note for note in report.notes), str(report)
    with pytest.raises(CheckError, match="state and no parameter"):
        check(loss_of, inputs, trained="net.centre")
