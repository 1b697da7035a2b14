"""The rows of the libraries around torch and jax, against the libraries themselves where they are installed."""

from __future__ import annotations

import functools
import importlib
import inspect
from typing import Any

import pytest

from gradaudit.models import Row, library

jax = pytest.importorskip("jax")
numpy = importlib.import_module("numpy")
jnp = importlib.import_module("jax.numpy")
partial_eval = importlib.import_module("jax.interpreters.partial_eval")

LIBRARIES = ("flax", "haiku", "equinox", "optax", "rlax", "distrax")
NAMES = [path for name in LIBRARIES for path in sorted(library(name).groups)]
MODULES = frozenset({"module", "plain_module"})
# Where an alias hides the place of a name in the library itself.
ELSEWHERE = {"haiku": "nets", "optax": "losses"}

# Arguments as text, by a name's last component or by the whole name; modules: constructor's, " | ", call's. Arrays:
# x y z (2, 3) in (0.2, 0.8); v w (3,); p: rows that sum to one; n: their logarithm; g: (1, 6, 6, 4);
# i: class indices (2,); c: a batch of two scalars; k: a random key.
EXAMPLES: dict[str, str] = {}
for line in """
softmax_cross_entropy_with_integer_labels: x, i
multiclass_hinge_loss multiclass_perceptron_loss multiclass_sparsemax_loss: x, i
sparsemax_loss: c, c * 0
kl_divergence convex_kl_divergence generalized_kl_divergence: n, p
kl_divergence_with_log_targets: n, n * 2
hinge_loss perceptron_loss: c, c * 2 - 1
ntxent: x, i
triplet_margin_loss: x, y, z
smooth_labels: x, 0.1
bias_correction: x, 0.9, 3
update_moment: x, y, 0.9, 1
safe_norm safe_root_mean_squares: x, 0.1
ctc_loss: t, jnp.zeros((1, 4)), jnp.ones((1, 2), int), jnp.zeros((1, 2))
scale_gradient: x, 0.3
optax.tree.norm: x
ranking_softmax_loss sigmoid_focal_loss: x, y
avg_pool max_pool: g, (2, 2)
haiku.avg_pool haiku.max_pool: g, 2, 2, "VALID"
dropout: k, 0.3, x
dot_product_attention: b, b * 2, b * 3
Dense Linear: 4 | x
equinox.nn.Linear: 3, 4, key=k | v
flax.nnx.Linear: 3, 4, rngs=rngs | x
DenseGeneral: 4 | x
flax.nnx.LinearGeneral: 3, 4, rngs=rngs | x
Conv ConvTranspose: 3, (2, 2) | g
flax.nnx.Conv flax.nnx.ConvTranspose: 4, 3, (2, 2), rngs=rngs | g
ConvLocal: 3, (2, 2) | g
Einsum: (3, 4), "ij,jk->ik" | x
flax.nnx.Einsum: "ij,jk->ik", (3, 4), (4,), rngs=rngs | x
BatchNorm: use_running_average=False | x
flax.nnx.BatchNorm: 3, use_running_average=True, rngs=rngs | x
GroupNorm: num_groups=2 | g
flax.nnx.GroupNorm: 4, num_groups=2, rngs=rngs | g
InstanceNorm: | g
flax.nnx.InstanceNorm: 4, rngs=rngs | g
flax.nnx.LayerNorm flax.nnx.RMSNorm: 3, rngs=rngs | x
Embed: 4, 3 | i
flax.nnx.Embed: 4, 3, rngs=rngs | i
PReLU: | x - 1
flax.nnx.PReLU: | x - 1
flax.linen.LSTMCell OptimizedLSTMCell: 3 | (y * 1, z * 1), x
flax.linen.GRUCell MGUCell SimpleCell: 3 | y, x
flax.nnx.LSTMCell flax.nnx.OptimizedLSTMCell: 3, 3, rngs=rngs | (y * 1, z * 1), x
flax.nnx.GRUCell flax.nnx.SimpleCell: 3, 3, rngs=rngs | y, x
ConvLSTMCell: 3, (2, 2) | (g[..., :3], g[..., :3] * 2), g
MultiHeadDotProductAttention MultiHeadAttention: 1 | b, b * 2, b * 3
SelfAttention: 1 | b
flax.nnx.MultiHeadAttention: 1, 3, 3, 3, rngs=rngs, decode=False | b, b * 2, b * 3
Dropout: 0.3, deterministic=True | x
flax.nnx.Dropout: 0.3, deterministic=True, rngs=rngs | x
flax.linen.RNN: nn.LSTMCell(3) | b
flax.linen.Bidirectional: nn.RNN(nn.LSTMCell(3)), nn.RNN(nn.GRUCell(3)) | b
flax.linen.SpectralNorm: nn.Dense(3) | x, update_stats=False
flax.linen.WeightNorm: nn.Dense(3) | x
flax.nnx.RNN: nnx.LSTMCell(3, 3, rngs=rngs) | b
flax.nnx.Bidirectional: nnx.RNN(nnx.LSTMCell(3, 3, rngs=rngs)), nnx.RNN(nnx.GRUCell(3, 3, rngs=rngs)) | b
flax.nnx.SpectralNorm: nnx.Linear(3, 3, rngs=rngs), rngs=rngs | x, update_stats=False
flax.nnx.WeightNorm: nnx.Linear(3, 3, rngs=rngs), rngs=rngs | x
haiku.VectorQuantizer: 3, 4, 0.25 | x, True
haiku.VectorQuantizerEMA: 3, 4, 0.25, 0.9 | x, True
equinox.nn.WeightNorm: eqx.nn.Linear(3, 4, key=k) | v
flax.nnx.LoRA: 3, 2, 3, rngs=rngs | x
flax.nnx.LoRALinear: 3, 3, lora_rank=2, rngs=rngs | x
haiku.Conv1D haiku.Conv1DTranspose haiku.DepthwiseConv1D: 2, 2 | g[0]
haiku.DepthwiseConv1D: 1, 2 | g[0]
haiku.Conv2D haiku.Conv2DTranspose: 2, 2 | g
haiku.DepthwiseConv2D: 1, 2 | g
haiku.Conv3D haiku.Conv3DTranspose: 2, 2 | g[..., None]
haiku.ConvND haiku.ConvNDTranspose: 2, 2, 2 | g
haiku.SeparableDepthwiseConv2D: 1, 2 | g
haiku.MLP: [3, 2] | x
haiku.Bias: | x
haiku.LayerNorm: -1, True, True | x
haiku.InstanceNorm: True, True | g
haiku.GroupNorm: 2 | g
haiku.RMSNorm: -1 | x
haiku.BatchNorm: True, True, 0.9 | x, True
haiku.LSTM haiku.GRU haiku.VanillaRNN: 3 | x, y
haiku.LSTM: 3 | x, hk.LSTMState(y, z)
haiku.MultiHeadAttention: 1, 3, w_init_scale=1.0 | b, b * 2, b * 3
haiku.AvgPool haiku.MaxPool: 2, 2, "VALID" | g
haiku.Reshape: (3, 1) | x
haiku.ExponentialMovingAverage: 0.9 | x
equinox.nn.Conv1d equinox.nn.ConvTranspose1d: 6, 3, 2, key=k | g[0, :, :, 0]
equinox.nn.Conv2d equinox.nn.ConvTranspose2d: 6, 3, 2, key=k | g[0]
equinox.nn.Conv3d equinox.nn.ConvTranspose3d: 1, 3, 2, key=k | g
equinox.nn.Conv equinox.nn.ConvTranspose: 2, 6, 3, 2, key=k | g[0]
equinox.nn.LayerNorm equinox.nn.RMSNorm: 3 | v
equinox.nn.GroupNorm: 2, 6 | g[0]
equinox.nn.MLP: 3, 2, 4, 1, key=k | v
equinox.nn.Embedding: 4, 3, key=k | i[0]
equinox.nn.PReLU: | x - 1
equinox.nn.GRUCell: 3, 3, key=k | v, w
equinox.nn.LSTMCell: 3, 3, key=k | v, (w, w * 2)
equinox.nn.MultiheadAttention: 1, 3, key=k | x, y, z
equinox.nn.AvgPool1d equinox.nn.MaxPool1d: 2 | x
equinox.nn.AvgPool2d equinox.nn.MaxPool2d: 2 | g[0]
equinox.nn.AvgPool3d equinox.nn.MaxPool3d: 2 | g
equinox.nn.AdaptiveAvgPool1d equinox.nn.AdaptiveMaxPool1d: 1 | x
equinox.nn.AdaptiveAvgPool2d equinox.nn.AdaptiveMaxPool2d: 1 | g[0]
equinox.nn.AdaptiveAvgPool3d equinox.nn.AdaptiveMaxPool3d: 1 | g
equinox.nn.Dropout: 0.3 | x, key=k
equinox.nn.RotaryPositionalEmbedding: 4 | g[0, 0]
td_learning: c[0], c[1], c[0] * 2, c[1] * 2
td_lambda: v, w, v * 2, w * 2, 0.9
sarsa: v, 0, c[0], c[1], w, 1
expected_sarsa: v, 0, c[0], c[1], w, w * 2
sarsa_lambda: x, i, c, c * 2, y, i, 0.9
q_learning: v, 0, c[0], c[1], w
double_q_learning: v, 0, c[0], c[1], w, w * 2
persistent_q_learning: v, 0, c[0], c[1], w, 0.3
qv_learning: v, 0, c[0], c[1], c[0] * 2
qv_max: c[0], c[1], c[1] * 2, w
q_lambda transformed_q_lambda: x, i, c, c * 2, y, c * 0.5
retrace transformed_retrace: x, y, i, i, c, c * 2, p, c * 0.4, 0.9
retrace_continuous: c, c[:1], c * 2, c * 3, c * 4, c[:1] * 3, 0.9
transformed_n_step_q_learning: x, i, y, i, c, c * 2, 1
categorical_l2_project: v, w, jnp.linspace(0.0, 1.0, 3) + v * 0
categorical_td_learning: v, w, c[0], c[1], v * 1.1, w * 2
categorical_q_learning: v, x, 0, c[0], c[1], v * 1.1, y
categorical_double_q_learning: v, x, 0, c[0], c[1], v * 1.1, y, y[:, 0]
quantile_regression_loss: v, w, v * 2
quantile_q_learning: x, c, 0, c[0], c[1], z, y
quantile_expected_sarsa: x, c, 0, c[0], c[1], y, v
lambda_returns: v, w, v * 2
transformed_lambda_returns: rlax.SIGNED_HYPERBOLIC_PAIR, v, w, v * 2
n_step_bootstrapped_returns: v, w, v * 2, 2
transformed_n_step_returns: rlax.SIGNED_HYPERBOLIC_PAIR, v, w, v * 2, 2
discounted_returns: v, w, v * 2
general_off_policy_returns_from_action_values: x, i, c, c * 2, c * 0.4, p
transformed_general_off_policy_returns_from_action_values: rlax.IDENTITY_PAIR, x, i, c, c * 2, c * 0.4, p
general_off_policy_returns_from_q_and_v: c[:1], c, c * 2, c * 3, c[:1] * 2
truncated_generalized_advantage_estimation: v[:2], w[:2], 0.9, v * 2
importance_corrected_td_errors: v[:2], w[:2], c * 0.5, c * 0.9, v * 2
vtrace: v, v * 2, w, w * 2, v * 0.5
leaky_vtrace vtrace_td_error_and_advantage leaky_vtrace_td_error_and_advantage: v, v * 2, w, w * 2, v * 0.5
dpg_loss: v, w
policy_gradient_loss: x, i, c, c * 2
entropy_loss: x, c
qpg_loss rm_loss rpg_loss: x, y
clipped_surrogate_pg_loss: v + 0.5, w, 0.5
importance_sampling_ratios: D.Categorical(logits=v), D.Categorical(logits=w), 1
categorical_importance_sampling_ratios: x, y, i
categorical_cross_entropy: v, w
categorical_kl_divergence: v, w
multivariate_normal_kl_divergence: v, w, v * 2, w * 2
batched_index: x, i
clip_gradient: x, -1.0, 1.0
power: x, 0.3
transform_to_2hot: v, 0.0, 1.0, 4
transform_from_2hot: x, 0.0, 1.0, 3
add_gaussian_noise: k, v, 0.3
add_dirichlet_noise: k, p, 0.3, 0.3
add_ornstein_uhlenbeck_noise: k, v, w, 0.3, 0.3
lhs_broadcast: c, x
replace_masked: x, y, x > 0.5
conditional_update: x, y, c[0] > 0
tree_select: c[0] > 0, x, y
rlax.one_hot: i, 3
expectile_loss: x, y, 0.3
""".strip().splitlines():
    names, _, example = line.partition(":")
    EXAMPLES.update(dict.fromkeys(names.split(), example.strip()))


def values() -> dict[str, Any]:
    generator = numpy.random.default_rng(0)  # jax.random would compile one program for each shape

    def array(*shape: int) -> Any:
        return jnp.asarray(generator.uniform(0.2, 0.8, shape), jnp.float32)

    x = array(2, 3)
    return {
        "jax": jax, "jnp": jnp, "capture": lambda *args, **kwargs: (args, kwargs),
        "x": x, "y": array(2, 3), "z": array(2, 3), "v": array(3), "w": array(3), "c": array(2), "t": array(1, 4, 3),
        "p": jax.nn.softmax(x), "n": jax.nn.log_softmax(x), "b": array(1, 2, 3), "g": array(1, 6, 6, 4),
        "i": jnp.array([0, 2]), "k": jax.random.key(1),
    }  # fmt: skip


VALUES = values()


def resolve(path: str) -> Any:
    root = path.partition(".")[0]
    if root == "tfp":
        path = path.replace("tfp", "tensorflow_probability.substrates.jax", 1)
    parts = path.split(".")
    if root in ELSEWHERE and not hasattr(importlib.import_module(root), parts[1]):
        parts.insert(1, ELSEWHERE[root])
    value: Any = pytest.importorskip(parts[0])
    for place, part in enumerate(parts[1:], 1):
        if not hasattr(value, part) and inspect.ismodule(value):
            importlib.import_module(".".join(parts[: place + 1]))
        value = getattr(value, part)
    return value


def is_float(value: Any) -> bool:
    return isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.inexact)


def depends(call: Any, primals: list[Any]) -> list[bool]:
    """On the tangents of which arguments do the tangents of the results depend?"""

    def tangents(given: list[Any]) -> list[Any]:
        _, results = jax.jvp(lambda *inputs: call(*inputs), tuple(primals), tuple(given))
        return [leaf for leaf in jax.tree.leaves(results) if leaf.dtype != jax.dtypes.float0]

    closed = jax.make_jaxpr(tangents)(primals)
    if not closed.out_avals:
        return [False] * len(primals)
    _, used = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.out_avals))
    return list(used)


def flows(call: Any, args: Any, kwargs: Any) -> list[tuple[int | str, bool]]:
    """For every differentiable array among the arguments: the parameter it came by, and whether gradient passes."""
    leaves, tree = jax.tree.flatten((list(args), kwargs))
    live = [place for place, leaf in enumerate(leaves) if is_float(leaf)]
    owners = [key for key, value in [*enumerate(args), *kwargs.items()] for _ in jax.tree.leaves(value)]

    def run(*inputs: Any) -> Any:
        filled = list(leaves)
        for place, value in zip(live, inputs, strict=True):
            filled[place] = value
        args, kwargs = jax.tree.unflatten(tree, filled)
        result = call(*args, **kwargs)
        return [leaf for leaf in jax.tree.leaves(result) if hasattr(leaf, "dtype")]

    reached = depends(run, [leaves[place] for place in live])
    return [(owners[place], flow) for place, flow in zip(live, reached, strict=True)]


def example(path: str, row: Row) -> str:
    text = EXAMPLES.get(path, EXAMPLES.get(path.rpartition(".")[2]))
    if text is not None:
        return text
    live = 0
    while live < len(row.args) and row.passes(live):
        live += 1
    call = ", ".join("xyz"[: max(live, 1)])
    return f"| {call}" if row.kind in MODULES else call


def compare(row: Row, call: Any, args: Any, kwargs: Any) -> None:
    reached = flows(call, args, kwargs)
    assert reached or row.kind != "op", "the example gives it no differentiable argument"
    for key, flow in reached:
        assert flow == row.passes(key), f"{row.argument(key) if isinstance(key, int) else key}: {flow}"


@pytest.fixture(autouse=True)
def switches_are_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """`select` of a constant keeps both sides in the graph; what counts is the side that it takes."""
    select = jax.lax.select
    monkeypatch.setattr(
        jax.lax, "select", lambda on, a, b: (a if on else b) if isinstance(on, bool) else select(on, a, b)
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", [p for p in NAMES if ".Distribution." not in p and ".Bijector." not in p])
def test_row_says_what_the_library_does(path: str) -> None:
    row = library(path.partition(".")[0].replace("tfp", "distrax")).row(path)
    assert row is not None
    function = resolve(path)
    if row.extra.get("unverified"):
        pytest.skip(row.extra["unverified"])
    if row.kind not in ("op", "stop", *MODULES) or path.startswith("flax.nnx.Variable"):
        return
    if row.op == "transform":
        return  # bijectors: see below
    if row.kind in MODULES:
        check_module(path, row, function)
        return
    if inspect.isclass(function):
        return
    args, kwargs = eval(f"capture({example(path, row)})", {**VALUES, **extras(path)})
    compare(row, function, args, kwargs)
    if "flag" in row.extra and row.extra["default"]:
        live = {name for name in row.args if row.passes(name)} | set(row.extra.get("unstopped", "").split())
        switched = functools.partial(function, **{row.extra["flag"]: False})
        for key, flow in flows(switched, args, kwargs):
            name = row.argument(key) if isinstance(key, int) else key
            assert flow == (name in live), f"{name}, with the switch off: {flow}"


def check_module(path: str, row: Row, made: Any) -> None:
    """Build it, call it, and see that gradient reaches its parameters and the arguments that the row says."""
    built, _, given = example(path, row).partition("|")
    scope = {**VALUES, "made": made, **extras(path)}
    args, kwargs = eval(f"capture({given})", scope)
    root = path.rpartition(".")[0]
    parameters, call = BUILDERS[root](made, built, scope, args, kwargs)
    assert bool(jax.tree.leaves(parameters)) == (row.kind == "module")
    names = {
        str(getattr(step[-1], "key", getattr(step[-1], "name", step[-1]))).strip(".") for step in paths(parameters)
    }
    assert set(row.extra.get("parameters", "").split()) <= names
    reached = flows(call, [parameters, *args], kwargs)
    assert row.kind != "module" or any(flow for key, flow in reached if key == 0)
    for key, flow in reached:
        if key != 0:
            key = key - 1 if isinstance(key, int) else key
            assert flow == row.passes(key), f"{row.argument(key) if isinstance(key, int) else key}: {flow}"


def extras(path: str) -> dict[str, Any]:
    """The library itself, as its users call it, and a source of random keys where modules want one."""
    root = path.partition(".")[0]
    scope = {{"haiku": "hk", "equinox": "eqx"}.get(root, root): importlib.import_module(root)}
    if root == "flax":
        scope["nn"], scope["nnx"] = importlib.import_module("flax.linen"), importlib.import_module("flax.nnx")
        scope["rngs"] = scope["nnx"].Rngs(0)
    return scope


def paths(parameters: Any) -> list[Any]:
    found = [path for path, _ in jax.tree_util.tree_flatten_with_path(parameters)[0]]
    return [[step for step in path if getattr(step, "name", "") != "value"] or path for path in found]


def filled(shapes: Any) -> Any:
    """Arrays of these shapes, without compiling an initialiser."""
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.3, leaf.dtype), shapes)


def build_linen(made: Any, built: str, scope: Any, args: Any, kwargs: Any) -> Any:
    module = eval(f"made({built})", scope)
    state = filled(jax.eval_shape(lambda: module.init(scope["k"], *args, **kwargs)))
    parameters, rest = state.get("params", {}), {key: value for key, value in state.items() if key != "params"}
    return parameters, lambda given, *a, **k: module.apply(
        {"params": given, **rest}, *a, mutable=list(rest) or False, **k
    )


def build_nnx(made: Any, built: str, scope: Any, args: Any, kwargs: Any) -> Any:
    nnx = importlib.import_module("flax.nnx")
    module = eval(f"made({built})", scope)
    graph, parameters, rest = nnx.split(module, nnx.Param, ...)
    return nnx.to_pure_dict(parameters), lambda given, *a, **k: nnx.merge(
        graph, nnx.State(jax.tree.map(nnx.Param, given)), rest
    )(*a, **k)


def build_haiku(made: Any, built: str, scope: Any, args: Any, kwargs: Any) -> Any:
    haiku = importlib.import_module("haiku")
    function = haiku.transform_with_state(lambda *a, **k: eval(f"made({built})", scope)(*a, **k))
    parameters, state = filled(jax.eval_shape(lambda: function.init(scope["k"], *args, **kwargs)))
    return parameters, lambda given, *a, **k: function.apply(given, state, scope["k"], *a, **k)[0]


def build_equinox(made: Any, built: str, scope: Any, args: Any, kwargs: Any) -> Any:
    equinox = importlib.import_module("equinox")
    module = eval(f"made({built})", scope)
    parameters, rest = equinox.partition(module, equinox.is_inexact_array)
    return parameters, lambda given, *a, **k: equinox.combine(given, rest)(*a, **k)


BUILDERS = {
    "flax.linen": build_linen,
    "flax.nnx": build_nnx,
    "haiku": build_haiku,
    "equinox.nn": build_equinox,
}


# What the parameters of a distribution are called with; a value to ask for is drawn where it can be.
DISTRIBUTIONS = {
    "MultivariateNormalTri": "v, q",
    "MultivariateNormalTriL": "v, q",
    "MultivariateNormalFullCovariance": "v, q @ q.T",
    "MultivariateNormalDiag": "v, w",
    "ClippedNormal ClippedLogistic": "v, w, -2.0, 2.0",
    "TruncatedNormal": "v, w, -2.0, 2.0",
    "Uniform": "v - 1, w",
    "StudentT": "v + 3, w, v",
    "RelaxedBernoulli RelaxedOneHotCategorical": "0.5, logits=v",
    "Multinomial Binomial NegativeBinomial": "4, logits=v",
    "Bernoulli Categorical OneHotCategorical Softmax Geometric": "logits=v",
    "Greedy": "v",
    "EpsilonGreedy": "v, 0.3",
    "Dirichlet Deterministic Exponential HalfNormal Poisson": "v",
}
BUILT = {name: text for names, text in DISTRIBUTIONS.items() for name in names.split()}
NO_SCORE = frozenset("Deterministic Greedy EpsilonGreedy Uniform".split())  # a constant where it is not zero


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "path",
    [p for p in NAMES if p.partition(".")[0] in ("distrax", "tfp") and "rsample" in library("distrax").row(p).extra],
)
def test_distribution(path: str) -> None:
    """Samples of continuous distributions are pathwise, those of discrete ones are not; log_prob always is live."""
    row = library("distrax").row(path)
    assert row is not None
    name = path.rpartition(".")[2]
    scope = {**VALUES, "q": jnp.eye(3) + 0.1}
    args, kwargs = eval(f"capture({BUILT.get(name, 'v, w')})", scope)
    kind = resolve(path)
    assert set(row.args[: len(args)]) <= set(inspect.signature(kind).parameters)
    assert all(argument in row.args for argument in kwargs)

    def sample(*args: Any, **kwargs: Any) -> Any:
        return kind(*args, **kwargs).sample(seed=scope["k"])

    def score(*args: Any, **kwargs: Any) -> Any:
        return kind(*args, **kwargs).log_prob(jax.lax.stop_gradient(sample(*args, **kwargs)))

    assert row.extra["rsample"] == any(flow for _, flow in flows(sample, args, kwargs))
    if name not in NO_SCORE:
        reached = flows(score, args, kwargs)
        assert all(
            flow == row.passes(key) for key, flow in reached if not (name.startswith("Clipped") and key in (2, 3))
        )


@pytest.mark.parametrize("path", [p for p in NAMES if ".Distribution." in p or ".Bijector." in p])
def test_methods_exist(path: str) -> None:
    """In one of the two libraries, on one of their classes."""
    distrax = pytest.importorskip("distrax")
    tfp = importlib.import_module("tensorflow_probability.substrates.jax")
    name = path.rpartition(".")[2]
    spaces = [vars(distrax), *(vars(space) for space in (tfp.distributions, tfp.bijectors))]
    assert any(hasattr(kind, name) for space in spaces for kind in space.values() if inspect.isclass(kind))


@pytest.mark.parametrize(
    "built", ["Tanh()", "Sigmoid()", "ScalarAffine(0.1, 2.0)", "Shift(0.3)", "Inverse(distrax.Tanh())"]
)
def test_bijectors_pass(built: str) -> None:
    distrax = pytest.importorskip("distrax")
    bijector = eval(f"distrax.{built}", {"distrax": distrax})
    for call in (bijector.forward, bijector.inverse, bijector.forward_and_log_det):
        assert flows(call, [VALUES["v"] * 0.5], {}) == [(0, True)]


def test_few_rows_are_unverified() -> None:
    rows = [library(name).row(path) for name in LIBRARIES for path in library(name).groups]
    assert sum(bool(row.extra.get("unverified")) for row in rows if row) < 50
