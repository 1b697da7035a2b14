"""The jax recorder by itself: what passes gradient, names, lines, stops anywhere, one clear error each."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from gradaudit.dynamic.jax_recorder import JaxRecorder  # noqa: E402
from gradaudit.dynamic.recording import NONE, Cut, LossCall, Recording  # noqa: E402
from gradaudit.dynamic.roles import Roles  # noqa: E402
from gradaudit.errors import CheckError, UserCodeError  # noqa: E402
from gradaudit.tape import Node  # noqa: E402

RECORDER = JaxRecorder()
stop = jax.lax.stop_gradient


def record(function: Callable[..., Any], *args: Any, frozen: Any = (), trained: Any = (), **fields: Any) -> Recording:
    names = fields.pop("names", None) or tuple(function.__code__.co_varnames[: len(args)])
    call = LossCall("here:loss", function, args, names=names, **fields)
    return RECORDER.record(call, Roles(tuple(frozen), tuple(trained)))


def states(recording: Recording) -> dict[str, str]:
    return {group.name: group.state for group in recording.groups}


X = jnp.linspace(-1.0, 1.0, 12).reshape(3, 4)
KEY = jax.random.key(0)

PASSES: dict[str, Callable[[Any], Any]] = {
    "square": lambda x: (x**2).sum(),
    "power": lambda x: (jnp.abs(x) ** 3.5).sum(),
    "matmul": lambda x: (x @ x.T).sum(),
    "einsum": lambda x: jnp.einsum("ij,kj->ik", x, x).sum(),
    "relu": lambda x: jax.nn.relu(x).sum(),
    "softmax": lambda x: jax.nn.softmax(x)[0, 0],
    "log_softmax": lambda x: jax.nn.log_softmax(x)[0, 0],
    "logsumexp": lambda x: jax.nn.logsumexp(x),
    "norm": lambda x: jnp.linalg.norm(x),
    "quantile": lambda x: jnp.percentile(x, 90.0),
    "std": lambda x: x.std(),
    "where": lambda x: jnp.where(x > 0, x, 0.0).sum(),
    "clip": lambda x: jnp.clip(x, -0.5, 0.5).sum(),
    "max": lambda x: x.max(axis=1).sum(),
    "sort": lambda x: jnp.sort(x, axis=1)[:, 0].sum(),
    "cumsum": lambda x: jnp.cumsum(x)[3],
    "gather": lambda x: x[jnp.arange(3), jnp.array([0, 1, 2])].sum(),
    "take_along_axis": lambda x: jnp.take_along_axis(x, jnp.zeros((3, 1), int), axis=1).sum(),
    "set": lambda x: jnp.zeros((3, 4)).at[0].set(x[1]).sum(),
    "add": lambda x: jnp.ones((3, 4)).at[:, 0].add(x[:, 1]).sum(),
    "round_trip": lambda x: x.astype(jnp.float16).astype(jnp.float32).sum(),
    "conv": lambda x: jnp.convolve(x[0], jnp.ones(2)).sum(),
    "while": lambda x: jax.lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, 2 * c[1]), (0, x.sum()))[1],
    "dropout": lambda x: jnp.where(jax.random.bernoulli(KEY, 0.5, x.shape), x / 0.5, 0.0).sum(),
    "solve": lambda x: jnp.linalg.solve(x[:, :3] @ x[:, :3].T + jnp.eye(3), x[:, 0]).sum(),
    "grad_of_grad": lambda x: jnp.square(jax.grad(lambda y: (y**3).sum())(x)).sum(),
    "zero": lambda x: (x * 0.0).sum(),
    "same": lambda x: (x - x).sum(),
    "done": lambda x: (jnp.zeros(()) * x).sum(),
    "straight_through": lambda x: (x + stop(jnp.round(x) - x)).sum(),
    "custom_root": lambda x: jax.nn.softplus(x).sum(),
    "switched_on": lambda x: jax.lax.select(False, stop(x), x).sum(),
}

STOPS: dict[str, Callable[[Any], Any]] = {
    "stop": lambda x: stop(x).sum(),
    "stop_in_jit": lambda x: jax.jit(stop)(x).sum(),
    "stop_in_vmap": lambda x: jax.vmap(lambda row: stop(row).sum())(x).sum(),
    "stop_in_scan": lambda x: jax.lax.scan(lambda c, row: (c + stop(row).sum(), None), 0.0, x)[0],
    "stop_in_while": lambda x: jax.lax.fori_loop(0, 3, lambda _, c: 0.5 * stop(c), x.sum()),
    "stop_in_remat": lambda x: jax.checkpoint(lambda y: stop(y).sum())(x),
    "stop_in_cond": lambda x: jax.lax.cond(X[0, 0] > 0, lambda y: stop(y).sum(), lambda y: 2 * stop(y).sum(), x),
    "argmax": lambda x: jnp.argmax(x, -1).astype(float).sum(),
    "round": lambda x: jnp.round(x).sum(),
    "sign": lambda x: jnp.sign(x).sum(),
    "floor": lambda x: jnp.floor(x).sum(),
    "compare": lambda x: (x > 0).astype(float).sum(),
    "integer": lambda x: x.astype(int).astype(float).sum(),
    "condition": lambda x: jnp.where(x > 0, 1.0, 0.0).sum(),
    "categorical": lambda x: jax.random.categorical(KEY, x).astype(float).sum(),
    "shape": lambda x: jnp.ones_like(x).sum(),
    "callback": lambda x: jax.pure_callback(np.asarray, jax.ShapeDtypeStruct((), jnp.float32), stop(x.sum())),
    "switched_off": lambda x: jax.lax.select(True, stop(x), x).sum(),
    "branch_not_taken": lambda x: jax.lax.cond(True, lambda y: stop(y).sum(), lambda y: y.sum(), x),
}


@pytest.mark.parametrize("name", PASSES)
def test_passes(name: str) -> None:
    function = PASSES[name]
    if name == "while":  # jax itself cannot differentiate it backwards
        with pytest.raises(CheckError, match="cannot be differentiated"):
            record(lambda x: function(x), X)
        return
    assert states(record(lambda x: function(x), X))["x"] in ("zero", "nonzero")


@pytest.mark.parametrize("name", STOPS)
def test_stops(name: str) -> None:
    function = STOPS[name]
    assert states(record(lambda x: function(x), X)) == {"x": "none"}


def test_three_states() -> None:
    def loss(a: Any, b: Any, c: Any) -> Any:
        return (a**2).sum() + 0.0 * b.sum() + stop(c).sum()

    assert states(record(loss, X, X, X, argnums=(0, 1, 2))) == {"a": "nonzero", "b": "zero", "c": "none"}


class Pair(NamedTuple):
    online: dict[str, Any]
    target: dict[str, Any]


@dataclasses.dataclass
class Batch:
    obs: Any
    reward: Any


def net(p: dict[str, Any], x: Any) -> Any:
    return jnp.tanh(x @ p["kernel"] + p["bias"]).sum(-1)


def pair() -> Pair:
    one, two = ({"kernel": jax.random.normal(key, (4, 3)), "bias": jnp.zeros(3)} for key in jax.random.split(KEY))
    return Pair(one, two)


def td(params: Pair, batch: Batch) -> Any:
    goal = batch.reward + 0.9 * net(params.target, batch.obs)
    return jnp.mean((net(params.online, batch.obs) - goal) ** 2), {"goal": goal}


def test_names_and_lines() -> None:
    recording = record(td, pair(), Batch(X, jnp.ones(3)), frozen=["params.target"], trained=["online"])
    assert [(group.name, group.role) for group in recording.groups] == [
        ("params.online", "trained"),
        ("params.target", "frozen"),
    ]
    leaves = {node.leaf.path: node.leaf.kind for node in recording.tape.nodes if node.leaf is not None}
    assert leaves["params.online.kernel"] == "param" and leaves["batch.reward"] == "input"
    goal = next(node for node in recording.tape.nodes if node.name == "goal")
    assert goal.op == "add" and goal.location.line == td.__code__.co_firstlineno + 1
    assert goal.location.path.endswith("test_check_jax_recorder.py") and goal.location.function == "td"
    inside = next(node for node in recording.tape.nodes if node.op == "module_call")
    assert inside.call is not None and inside.call.location.line in (goal.location.line, goal.location.line + 1)
    calls = {node.frame.parent or node.frame for node in recording.tape.nodes if node.frame is not None}
    assert sorted(call.network.name for call in calls) == ["online", "target"]
    assert recording.notes == ["the loss is the first of the returned values"]


def test_operators_as_the_user_wrote_them() -> None:
    def loss(x: Any, y: Any) -> Any:
        return jnp.mean((x - y) ** 2)

    recording = record(loss, jnp.ones((5, 1)), jnp.zeros(5), argnums=(0,))
    difference = next(node for node in recording.tape.nodes if node.op == "sub")
    assert [recording.shapes[edge.source] for edge in difference.inputs] == [(5, 1), (5,)]
    assert recording.tape.sinks[0].loss.op == "mean" and recording.tape.sinks[0].loss.detail == ""


def value_nodes(recording: Recording) -> list[Node]:
    dull = ("const", "leaf", "alloc")
    return [node for node in recording.tape.nodes if node.op not in dull and any(e.passes for e in node.inputs)]


def nested(p: dict[str, Any], x: Any) -> Any:
    def step(carry: Any, row: Any) -> tuple[Any, Any]:
        carry = jax.checkpoint(lambda c, r: jnp.tanh(c + r @ p["w"]))(carry, row)
        return carry, jax.lax.cond(row[0] > 0, lambda c: 2.0 * c, lambda c: c - 1.0, carry)

    _, ys = jax.jit(lambda start: jax.lax.scan(step, start, x))(jnp.zeros(()))
    return jnp.square(ys).mean() + (p["v"] * jax.nn.relu(ys)).sum()


def test_a_stop_anywhere_keeps_the_value() -> None:
    params = {"w": jnp.linspace(0.1, 0.4, 4), "v": jnp.asarray(0.3)}
    recording = record(nested, params, X)
    nodes = value_nodes(recording)
    assert len(nodes) > 12
    loss = recording.tape.sinks[0].loss
    for node in nodes:
        proof = RECORDER.counterfactual(recording, Cut(values=frozenset((node,))))
        assert proof.identical and not proof.note, node
        if node is loss:
            assert set(proof.states.values()) == {"none"}


def test_operand_and_freeze() -> None:
    def loss(a: Any, b: Any) -> Any:
        return jnp.mean((a * b - b) ** 2)

    recording = record(loss, X, X + 2.0, argnums=(0, 1))
    difference = next(node for node in recording.tape.nodes if node.op == "sub")
    one = RECORDER.counterfactual(recording, Cut(operands=frozenset(((difference, 1),))))
    assert one.identical and one.states == {"a": "nonzero", "b": "nonzero"}
    assert [change.group for change in one.changes] == ["b"] and one.changes[0].relative > 0.01
    want = jax.grad(lambda b: jnp.mean((X * b - stop(b)) ** 2))(X + 2.0)
    assert one.changes[0].norm_after == pytest.approx(float(jnp.linalg.norm(want)), rel=1e-6)
    leaf = next(node for node in recording.tape.nodes if node.leaf is not None and node.leaf.path == "b")
    frozen = RECORDER.counterfactual(recording, Cut(freeze=frozenset((leaf,))))
    assert frozen.identical and frozen.states == {"a": "nonzero", "b": "none"}


def test_inputs_that_python_looks_at() -> None:
    def loss(params: Any, batch: Any) -> Any:
        rows = [row for row in batch["x"] if float(row[0]) > -0.5]
        return sum(((row * params["w"]) ** 2).sum() for row in rows)

    recording = record(loss, {"w": jnp.ones(4)}, {"x": X})
    assert states(recording) == {"params": "nonzero"}
    assert "looks at the values" in recording.notes[0]


def test_bound_methods_and_static_arguments() -> None:
    eqx = pytest.importorskip("equinox")

    class Model(eqx.Module):
        weight: Any
        name: str = "linear"

        def loss(self, x: Any, power: int = 2) -> Any:
            return ((x @ self.weight) ** power).mean()

    model = Model(jnp.ones(4))
    call = LossCall("here:model.loss", model.loss, (X,), {"power": 4}, ("x",), {"model": model})
    assert states(RECORDER.record(call, Roles())) == {"model": "nonzero"}
    assert [states(one) for one in RECORDER.record_all(call, Roles())] == [{"model": "nonzero"}]


def test_dictionary_of_losses() -> None:
    def loss(w: Any) -> Any:
        return {"policy": (w**2).sum(), "value": (3 * w).sum(), "steps": 4, "trace": w}

    recording = record(loss, X)
    assert recording.value == pytest.approx(float((X**2).sum() + (3 * X).sum()), rel=1e-5)
    assert recording.notes == ["the loss is the sum of policy, value"]


def broken(w: Any) -> Any:
    raise KeyError("next_obs")


ERRORS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], str]] = {
    "shape": (lambda w: w**2, (X,), {}, r"shape \[3, 4\]"),
    "integers": (lambda w: w.sum(), (jnp.arange(3),), {}, r"no floating-point array.*int32\[3\]"),
    "complex loss": (lambda w: w.sum() * 1j, (X,), {}, "complex64, which has no gradient"),
    "nothing": (lambda w: None, (X,), {}, "returned nothing, not a scalar"),
    "not a number": (lambda w: jnp.log(-jnp.abs(w)).sum(), (X,), {}, "the loss is nan"),
    "no argument": (lambda: jnp.zeros(()), (), {}, "takes no argument"),
    "argnums": (lambda w: w.sum(), (X,), {"argnums": (3,)}, "takes 1 positional argument"),
    "pattern": (lambda w: w.sum(), (X,), {"frozen": ["target"]}, "matches nothing"),
    "ambiguous": (lambda w: w.sum(), (X,), {"frozen": ["w"], "trained": ["w"]}, "ambiguous role"),
    "python number": (lambda w: jnp.ones(int(w[0, 0])).sum(), (X,), {}, "Python number"),
    "empty dictionary": (lambda w: {"names": "a"}, (X,), {}, "without a scalar"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    function, args, fields, message = ERRORS[name]
    with pytest.raises(CheckError, match=message) as caught:
        record(function, *args, **fields)
    assert len(str(caught.value).splitlines()) <= 2 and caught.value.exit_code == 2


def test_integer_loss_is_recorded() -> None:
    """As in torch: what made it a whole number is then told as what cuts the parameters off."""
    recording = record(lambda w: w.sum().astype(int), X)
    assert recording.value == float(int(X.sum()))
    assert [group.state for group in recording.groups] == [NONE]


def test_user_errors_keep_their_cause() -> None:
    with pytest.raises(UserCodeError, match="KeyError") as caught:
        record(broken, X)
    assert isinstance(caught.value.cause, KeyError)


def test_same_answer_twice() -> None:
    first, second = (record(td, pair(), Batch(X, jnp.ones(3))) for _ in range(2))
    assert first.value == second.value
    assert [(g.name, g.state, g.norm) for g in first.groups] == [(g.name, g.state, g.norm) for g in second.groups]
    assert [repr(node) for node in first.tape.nodes] == [repr(node) for node in second.tape.nodes]


def long_loss(params: dict[str, Any], x: Any) -> Any:
    total = jnp.zeros(())
    for t in range(70):
        hidden = jnp.tanh(x[t % 3] @ params["w"] + params["b"])
        total = total + jnp.square(jax.nn.sigmoid(hidden) * hidden - jnp.exp(-hidden)).mean()
    return total


def test_analysis_of_seven_hundred_equations() -> None:
    from gradaudit.dynamic.jax_leaves import Leaves
    from gradaudit.dynamic.jax_probe import Probe
    from gradaudit.dynamic.jax_program import trace
    from gradaudit.dynamic.jax_tape import Writer
    from gradaudit.tape import Tape

    call = LossCall("here:long", long_loss, ({"w": jnp.ones((4, 4)), "b": jnp.zeros(4)}, X), names=("params", "x"))
    program = trace(call, Roles(), Probe())
    tape = Writer(program.flat, Tape("jax"), program.lines, Leaves(program).leaf).run().tape
    assert len(program.flat.steps) >= 700 and len(tape.nodes) >= 700


def test_generated_inputs() -> None:
    from gradaudit.dynamic.recording import InputSpec

    whole = RECORDER.make_input(InputSpec("action", "int64", (7,), 0, 3), 1)
    assert whole.shape == (7,) and whole.dtype == jnp.int32 and set(np.unique(whole)) <= {0, 1, 2}
    assert RECORDER.make_input(InputSpec("x", "float32", (2, 3)), 1).dtype == jnp.float32
    assert re.match("bool", str(RECORDER.make_input(InputSpec("m", "bool", (4,)), 1).dtype))


def test_flax_modules_and_their_state() -> None:
    nnx = pytest.importorskip("flax.nnx")

    class Body(nnx.Module):  # type: ignore[misc, name-defined]
        def __init__(self, rngs: Any) -> None:
            self.linear = nnx.Linear(4, 3, rngs=rngs)
            self.norm = nnx.BatchNorm(3, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.norm(self.linear(x))

    @nnx.jit
    def compiled(model: Any, x: Any) -> Any:
        return (model(x) ** 4).mean() + model.norm.bias.sum()

    def parts(graph: Any, state: Any, x: Any) -> Any:
        return compiled(nnx.merge(graph, state), x)

    model = Body(nnx.Rngs(0))
    before = [np.asarray(leaf) for leaf in jax.tree.leaves(model)]
    whole = record(compiled, model, X, names=("model", "x"))
    assert states(whole)["model"] == "nonzero"
    assert {leaf.leaf.path for leaf in whole.tape.sinks[0].differentiated} == {
        "model.linear.kernel", "model.linear.bias", "model.norm.scale", "model.norm.bias",
    }  # fmt: skip
    assert all(np.array_equal(a, b) for a, b in zip(before, jax.tree.leaves(model), strict=True))
    split = record(parts, *nnx.split(model), X)
    assert states(split)["state"] == "nonzero"
    assert split.notes == ["differentiated for `state`, the first argument with parameters"]


def test_library_calls_are_one_node() -> None:
    distrax, optax = pytest.importorskip("distrax"), pytest.importorskip("optax")

    def loss(x: Any, y: Any) -> Any:
        policy = distrax.MultivariateNormalDiag(x, jnp.exp(x))
        log_prob = policy.log_prob(y)
        table = jax.nn.softmax(x)
        return (log_prob + optax.huber_loss(table, y).sum(-1)).mean()

    recording = record(loss, X, X + 1.0, argnums=(0, 1))
    ops = {node.op: node for node in recording.tape.nodes if node.location.line}
    assert ops["log_prob"].name == "log_prob" and ops["log_prob"].inputs[0].source.op == "dist"
    assert ops["softmax"].name == "table" and [edge.source.op for edge in ops["huber_loss"].inputs] == [
        "softmax",
        "leaf",
    ]
    proof = RECORDER.counterfactual(recording, Cut(operands=frozenset(((ops["huber_loss"], 1), (ops["log_prob"], 1)))))
    assert proof.identical and proof.states == {"x": "nonzero", "y": "none"}


def test_copies() -> None:
    net, other = pair()
    params = {"critic": net, "critic_target": jax.tree.map(jnp.copy, net), "actor": other, "actor_ema": net}

    def loss(params: Any, x: Any) -> Any:
        return sum(globals()["net"](one, x).mean() for one in params.values())

    recording = record(loss, params, X)
    copies = {
        node.leaf.path: node.leaf.copied_from.path
        for node in recording.tape.nodes
        if node.leaf is not None and node.leaf.copied_from is not None
    }
    assert copies["params.critic_target.kernel"] == "params.critic.kernel"
    own = recording.tape.sinks[0].own
    assert own is not None and {node.leaf.owner.name for node in own if node.leaf} == {"actor", "critic"}


def test_a_mask_that_is_captured_is_data() -> None:
    """Though all of it happens to be equal: which side is taken is no setting."""
    ended = jnp.zeros(X.shape, bool)
    assert states(record(lambda x: jnp.where(ended, x, 1.0).sum(), X)) == {"x": "zero"}
    never = jnp.asarray(False)
    assert states(record(lambda x: jax.lax.select(never, x, X).sum(), X)) == {"x": "none"}
