"""What check sees of a jax update beside its loss: which network an average moves, and how much it keeps of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from gradaudit.check import check  # noqa: E402

Write = Callable[[Any, Any, float], Any]
RANDOM = np.random.default_rng(0)
BATCH = RANDOM.normal(size=(5, 4)), RANDOM.normal(size=5), RANDOM.normal(size=(5, 4))

WRITES: dict[str, Write] = {
    "optax": lambda new, old, rate: optax.incremental_update(new, old, rate),
    "tree.map": lambda new, old, rate: jax.tree.map(lambda n, o: rate * n + (1 - rate) * o, new, old),
}


def tree() -> dict[str, Any]:
    return {"w": jnp.asarray(RANDOM.normal(size=(4, 3)), jnp.float32)}


def loss(one: Any, other: Any, obs: Any, reward: Any, later: Any) -> Any:
    target = reward + 0.9 * (later @ other["w"]).max(-1)
    return jnp.mean(((obs @ one["w"]).max(-1) - target) ** 2)


def update(write: Write, rate: float) -> Callable[..., Any]:
    def step(one: Any, other: Any, *batch: Any) -> Any:
        gradient = jax.grad(loss)(one, other, *batch)
        one = jax.tree.map(lambda p, g: p - 0.1 * g, one, gradient)
        return one, write(one, other, rate)

    return step


@pytest.mark.parametrize("how", WRITES)
def test_an_average_that_keeps_too_little(how: str) -> None:
    hasty = check(update(WRITES[how], 0.99), (tree(), tree(), *BATCH))
    assert [one.code for one in hasty.findings] == ["GA504"], str(hasty)
    assert "keeps 0.01" in hasty.findings[0].message
    assert check(update(WRITES[how], 0.01), (tree(), tree(), *BATCH)).findings == []


def test_a_copy_that_has_just_been_made() -> None:
    """Both trees hold the very same arrays before the first step."""
    params = tree()
    hasty = check(update(WRITES["optax"], 0.99), (params, dict(params), *BATCH))
    assert [one.code for one in hasty.findings] == ["GA504"], str(hasty)


def reversed_update(one: Any, other: Any, *batch: Any) -> Any:
    gradient = jax.grad(loss)(one, other, *batch)
    one = optax.apply_updates(one, jax.tree.map(lambda g: -0.1 * g, gradient))
    return optax.incremental_update(other, one, 0.01), other


def test_an_average_the_wrong_way_round() -> None:
    report = check(reversed_update, (tree(), tree(), *BATCH))
    assert [one.code for one in report.findings] == ["GA504"], str(report)
    assert "reversed" in report.findings[0].message


def test_numbers_that_numpy_made_are_data() -> None:
    """What a loss captures is known by its name, though jax has made an array of numpy's."""
    obs, reward, later = BATCH

    def update(params: Any) -> Any:
        def loss(p: Any) -> Any:
            target = reward + 0.9 * (later @ p["w"]).max(-1)
            return jnp.mean(((obs @ p["w"]).max(-1) - target) ** 2)

        return jax.grad(loss)(params)

    assert [one.code for one in check(update, (tree(),)).findings] == ["GA101"]


def test_a_step_that_returns_its_loss_first() -> None:
    """It hands back new parameters: no loss itself. What it makes before it takes gradient is a constant."""
    obs, reward, later = map(jnp.asarray, BATCH)

    def step(params: Any) -> Any:
        target = reward + 0.9 * (later @ params["w"]).max(-1)

        def loss(p: Any) -> Any:
            return jnp.mean(((obs @ p["w"]).max(-1) - target) ** 2)

        value, gradient = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)

    report = check(step, (tree(),))
    assert report.findings == [] and report.target.endswith("loss"), str(report)


def leak(one: Any, obs: Any, reward: Any, later: Any) -> Any:
    return loss(one, one, obs, reward, later)


@pytest.mark.parametrize("library", ["jax", "equinox", "flax.nnx"])
def test_a_gradient_function_made_at_import(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip(library)
    made = getattr(module, "filter_value_and_grad", None) or module.value_and_grad
    monkeypatch.setitem(globals(), "gradient_of_leak", made(leak))

    def update(one: Any, *batch: Any) -> Any:
        return gradient_of_leak(one, *batch)  # type: ignore[name-defined]  # noqa: F821

    report = check(update, (tree(), *map(jnp.asarray, BATCH)))
    assert [one.code for one in report.findings] == ["GA101"], str(report)


def test_a_gradient_along_a_direction() -> None:
    """The Hessian's product with a vector: the loss is the one that is differentiated twice."""

    def product(one: Any, *batch: Any) -> Any:
        return jax.jvp(lambda p: jax.grad(leak)(p, *batch), (one,), (one,))

    report = check(product, (tree(), *map(jnp.asarray, BATCH)))
    assert report.target.endswith("leak") and [one.code for one in report.findings] == ["GA101"], str(report)


def test_a_gradient_inside_of_a_loss() -> None:
    """It belongs to the loss, though it is taken at plain data."""

    def penalised(one: Any, obs: Any, reward: Any, later: Any) -> Any:
        slope = jax.grad(lambda inputs: (inputs @ one["w"]).max(-1).sum())(obs)
        return loss(one, {"w": 0.0 * obs.T @ obs[:, :3]}, obs, reward, later) + (slope**2).mean()

    def update(one: Any, *batch: Any) -> Any:
        return jax.grad(penalised)(one, *batch)

    report = check(update, (tree(), *map(jnp.asarray, BATCH)))
    assert report.target.endswith("penalised") and report.findings == [] and not report.parts, str(report)


def fit(one: Any, goal: Any, obs: Any) -> Any:
    return jnp.mean(((obs @ one["w"]).max(-1) - goal) ** 2)


@pytest.mark.parametrize("how", WRITES)
def test_an_average_of_what_the_loss_is_not_given(how: str) -> None:
    """The target is made before the gradient is taken: its network is an argument of the step alone."""

    def of(rate: float) -> Callable[..., Any]:
        def step(one: Any, follower: Any, obs: Any, reward: Any, later: Any) -> Any:
            goal = reward + 0.9 * (later @ follower["w"]).max(-1)
            gradient = jax.grad(fit)(one, goal, obs)
            one = jax.tree.map(lambda p, g: p - 0.1 * g, one, gradient)
            return one, WRITES[how](one, follower, rate)

        return step

    batch = tuple(map(jnp.asarray, BATCH))
    hasty = check(of(0.99), (tree(), tree(), *batch))
    assert [one.code for one in hasty.findings] == ["GA504"], str(hasty)
    assert "`follower`" in hasty.findings[0].message
    assert check(of(0.01), (tree(), tree(), *batch)).findings == []
