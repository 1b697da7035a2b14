"""Every row of rules/models/jax.toml against the real library: what the tangents of jax.jvp depend on, it must say."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from gradaudit.models import Row, library

jax = pytest.importorskip("jax")
numpy = importlib.import_module("numpy")
jnp = importlib.import_module("jax.numpy")
partial_eval = importlib.import_module("jax.interpreters.partial_eval")

JAX = library("jax")
NAMES = sorted(JAX.groups)
HANDLED = frozenset({"transform", "grad_mode", "none", "constant"})
COLLECTIVE = frozenset(
    "psum pmean pmax pmin psum_scatter all_gather ppermute pshuffle all_to_all pswapaxes axis_index axis_size".split()
)

# How to call a name: the arguments as text (a method's receiver first), by its last component, or by its whole name
# where that differs. Without an entry it is called with an array for every parameter up to the first that carries no
# gradient. x y z: (2, 3) in (0.2, 0.8); e: (2, 4); v w: (3,); q: (3, 3); b: (3, 3, 3); g: (1, 4, 6, 6);
# f: (4, 4, 2, 2); i: indices like x; j: two indices; m: a mask like x; k: a random key.
EXAMPLES: dict[str, str] = {}
for line in """
acosh arccosh: x + 1.5
integer_pow: x, 3
reduce_precision: x, 8, 7
multigammaln: x + 2, 1
glu: e
clip: x, y * 0 + 0.4, y * 0 + 0.6
clamp: y * 0 + 0.4, x, y * 0 + 0.6
ldexp: x, j[:1]
where select: m, x, y
jax.numpy.select: [m], [x]
select_n: m, x, y
piecewise: x, [m], [lambda a: a * 2, lambda a: a * 3]
bitwise_and bitwise_or bitwise_xor left_shift right_shift bitwise_left_shift bitwise_right_shift gcd lcm: i, i
shift_left shift_right_logical shift_right_arithmetic: i, i
bitwise_not bitwise_invert invert bitwise_count population_count clz: i
lexsort: (x[0], y[0])
partition argpartition: x, 1
jax.lax.argmax jax.lax.argmin: x, 1, "int32"
searchsorted: v, x
digitize: x, v
copysign nextafter: x, y
jax.Array.searchsorted: v, x
bincount: j
histogram histogram_bin_edges: x
one_hot: i, 4
ravel_multi_index: (j, j), (3, 3)
unravel_index: j, (3, 3)
item: x[0, 0]
zeros ones empty: (2, 3)
full: (2, 3), x[0, 0]
full_like: x, y[0, 0]
linspace logspace geomspace: x, y, 4
normal rademacher exponential gumbel laplace jax.random.logistic cauchy bits maxwell clone key_data: k
fold_in: k, 1
key: 1
wrap_key_data: jax.random.key_data(k)
randint: k, (2,), 0, 3
ball: k, 2
orthogonal: k, 2
scatter scatter_add: x, jnp.array([[0]]), y[:1], jax.lax.ScatterDimensionNumbers((1,), (0,), (0,))
scatter_mul: x, jnp.array([[0]]), y[:1], jax.lax.ScatterDimensionNumbers((1,), (0,), (0,)), unique_indices=True
jax.lax.gather: x, jnp.array([[0]]), jax.lax.GatherDimensionNumbers((1,), (0,), (0,)), (1, 3)
checkpoint_name: x, "name"
reduce_and reduce_or reduce_xor: m, (0,)
lognormal rayleigh wald: k, x
double_sided_maxwell: k, v, w
triangular: k, x * 0, x, x + 1
generalized_normal: k, 2.0
uniform: k, (2, 3), float, x * 0, y
truncated_normal: k, x - 1, y + 1
jax.random.gamma loggamma t chisquare pareto: k, x
dirichlet: k, x
jax.random.beta f: k, x, y
weibull_min: k, x, y
multivariate_normal: k, v, q
categorical bernoulli poisson geometric: k, x
binomial multinomial: k, 3, x
permutation: k, x
choice: k, v
average: x, 0, y
diff ediff1d trace: q
gradient: x, axis=1
quantile nanquantile percentile nanpercentile: x, 0.4
trapezoid: y, x
logsumexp: x, 0
norm vector_norm: x
matrix_norm: q
segment_sum segment_max segment_min segment_prod: x, j, 2, unique_indices=True
reduce_sum reduce_prod reduce_max reduce_min: x, (0,)
sort_key_val: v, w
sort: x
top_k approx_max_k approx_min_k: x, 2
reshape: x, (3, 2)
permute_dims: x, (1, 0)
jax.lax.transpose: x, (1, 0)
swapaxes: x, 0, 1
moveaxis: x, 0, 1
rollaxis: x, 1
expand_dims: x, 0
jax.lax.expand_dims: x, (0,)
broadcast_to: x, (2, 2, 3)
tile: x, (2, 2)
repeat: x, 2
flip: x, 0
rot90: q
roll: x, 1
resize: x, (6,)
jax.lax.squeeze: x[None], (0,)
jax.lax.broadcast: x, (2,)
broadcast_in_dim: x, (2, 2, 3), (1, 2)
broadcast_to_rank: x, 3
rev: x, (0,)
collapse: b, 0, 2
slice: x, (0, 0), (1, 2)
slice_in_dim: x, 0, 1
jax.lax.pad: x, 0.0, [(0, 1, 0), (0, 0, 0)]
jax.numpy.pad: x, 1
take: x, j
index_take: x, (j,), (0,)
take_along_axis: x, i, 1
compress: jnp.array([True, False]), x, 0, size=1
extract: m, x, size=3
jax.numpy.choose: j, [v[:2], w[:2]], mode="clip"
dynamic_index_in_dim index_in_dim: x, 1
dynamic_slice: x, (0, 1), (1, 2)
dynamic_slice_in_dim: x, 0, 1
dynamic_update_slice: x, y[:1], (0, 0)
dynamic_update_slice_in_dim: x, y[:1], 0, 0
dynamic_update_index_in_dim: x, y[0], 0, 0
append: x, y
insert: x, 1, y[0], 0
delete: x, 1, 0
stack hstack vstack dstack column_stack concatenate concat: [x, y]
jax.lax.concatenate: [x, y], 0
block: [[x, y]]
meshgrid: v, w
broadcast_arrays: x, y
split array_split vsplit: x, 2
hsplit: e, 2
dsplit: b[:, :, :2], 2
jax.lax.split: x, (1, 1)
unstack: x
convert_element_type: x, jnp.float16
jax.Array.astype astype: x, jnp.float16
bitcast_convert_type: x, jnp.int32
to_device: x, jax.devices()[0]
addressable_data: x, 0
with_sharding_constraint: x, jax.sharding.SingleDeviceSharding(jax.devices()[0])
matmul dot inner kron outer vdot vecdot: v, w
tensordot: x, y
jax.lax.dot: v, w
batch_matmul: b, b * 2
matvec: x, v
vecmat: v, q
dot_general: x, q, (((1,), (0,)), ((), ()))
multi_dot: [x, q]
einsum: "ij,ij->i", x, y
cross: x, y
convolve correlate: v, w
interp: x, jnp.linspace(0, 1, 3) + 0 * v, w
polyval: v, x
cholesky det inv pinv eigvalsh svdvals qr slogdet eigh svd cond matrix_rank jax.numpy.linalg.trace: q
jax.numpy.linalg.diagonal matrix_transpose: q
matrix_power: q, 2
tensorinv: q, 1
solve: q, v
tensorsolve: q.reshape(3, 3, 1), v
tril triu diag: q
fftfreq rfftfreq: 4
vander: v
conv: g, f, (1, 1), "VALID"
conv_general_dilated: g, f, (1, 1), "VALID"
conv_transpose: g, jnp.moveaxis(f, (0, 1), (3, 2)), (1, 1), "VALID", dimension_numbers=("NCHW", "HWIO", "NCHW")
conv_with_general_padding: g, f, (1, 1), "VALID", None, None
reduce_window: x, -jnp.inf, jax.lax.max, (1, 2), (1, 1), "VALID"
dot_product_attention: b[None], b[None] * 2, b[None] * 3
put_along_axis: x, i, y, 1, inplace=False
put: x, j, y[0, :2], inplace=False
place: x, m, v, inplace=False
fill_diagonal: q, 1.0, inplace=False
imag: x + 1j * y
jax.lax.real jax.lax.conj angle: x + 1j * y
jax.lax.empty: (2, 3), float
unique unique_values: x, size=6
cumulative_sum cumulative_prod: v
jax.random.split: k
jax.Array.at.get: x
jax.Array.view: x, jnp.int32
psum_scatter: q, "i"
all_to_all: q, "i", 0, 0
pswapaxes: q, "i", 0
psum pmean pmax pmin all_gather: v, "i"
ppermute: v, "i", [(0, 1), (1, 2), (2, 0)]
pshuffle: v, "i", [0, 1, 2]
""".strip().splitlines():
    names, _, example = line.partition(":")
    EXAMPLES.update(dict.fromkeys(names.split(), example.strip()))


def values() -> dict[str, Any]:
    """Arrays in general position, and what else the examples use."""
    generator = numpy.random.default_rng(0)  # jax.random would compile one program for each shape

    def array(*shape: int) -> Any:
        return jnp.asarray(generator.uniform(0.2, 0.8, shape), jnp.float32)

    return {
        "jax": jax, "jnp": jnp, "capture": lambda *args, **kwargs: (args, kwargs),
        "x": array(2, 3), "y": array(2, 3), "z": array(2, 3), "e": array(2, 4), "v": array(3), "w": array(3),
        "q": jnp.eye(3) + 0.1 * array(3, 3), "b": array(3, 3, 3), "g": array(1, 4, 6, 6), "f": array(4, 4, 2, 2),
        "i": jnp.array([[0, 1, 2], [2, 1, 0]]), "j": jnp.array([0, 1]), "k": jax.random.key(1),
        "m": jnp.array([[True, False, True], [False, True, True]]),
    }  # fmt: skip


VALUES = values()


def resolve(path: str) -> Any:
    value: Any = jax
    for part in path.split(".")[1:]:
        if not hasattr(value, part) and inspect.ismodule(value):
            importlib.import_module(f"{value.__name__}.{part}")
        value = getattr(value, part)
    return value


def example(path: str, row: Row) -> str:
    text = EXAMPLES.get(path, EXAMPLES.get(path.rpartition(".")[2]))
    if text is not None:
        return text
    live = 0
    while live < len(row.args) and row.passes(live):
        live += 1
    if row.kind in ("stop", "identity", "alloc"):
        live = 2 if row.args[1:2] == ("y",) else 1
    return ", ".join("xyz"[: max(live, 1)])


def function(path: str, row: Row) -> Callable[..., Any]:
    owner, _, name = path.rpartition(".")
    if owner == "jax.Array.at":
        return lambda receiver, *value: getattr(receiver.at[0], name)(*[row[0] for row in value])
    if owner != "jax.Array":
        call = resolve(path)
        if name in COLLECTIVE:
            return lambda value, *rest: jax.vmap(lambda item: call(item, *rest), axis_name="i")(value)
        return call
    if row.extra.get("property"):
        return lambda receiver: getattr(receiver, name)
    return lambda receiver, *args, **kwargs: getattr(receiver, name)(*args, **kwargs)


def is_inexact(value: Any) -> bool:
    return hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.inexact)


def is_float(value: Any) -> bool:
    return isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.inexact)


def depends(call: Callable[..., Any], primals: list[Any]) -> list[bool]:
    """On the tangents of which arguments do the tangents of the results depend?"""

    def tangents(given: list[Any]) -> list[Any]:
        _, results = jax.jvp(lambda *inputs: call(*inputs), tuple(primals), tuple(given))
        return [leaf for leaf in jax.tree.leaves(results) if leaf.dtype != jax.dtypes.float0]

    closed = jax.make_jaxpr(tangents)(primals)
    if not closed.out_avals:
        return [False] * len(primals)
    _, used = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.out_avals))
    return list(used)


def check_shape(result: Any, row: Row) -> None:
    """The result comes in the form that the row says."""
    if row.result == "first":
        assert isinstance(result, list | tuple) and len(result) == 2 and jnp.issubdtype(result[1].dtype, jnp.integer)
    elif row.result == "pair":
        assert isinstance(result, tuple) and len(result) == 2
    elif row.result.startswith("tuple:"):
        assert isinstance(result, tuple) and len(result) == int(row.result[6:])
    elif row.result == "list":
        assert isinstance(result, list | tuple)
    elif row.kind == "op":
        assert isinstance(result, jax.Array | jax.ShapeDtypeStruct)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", NAMES)
def test_row_says_what_the_tangents_do(path: str) -> None:
    row = JAX.row(path)
    assert row is not None
    if row.extra.get("unverified"):
        pytest.skip(row.extra["unverified"])
    if path.startswith("jax.Array.at."):
        assert hasattr(VALUES["x"].at[0], path.rpartition(".")[2])
    elif path.startswith("chex."):
        assert hasattr(pytest.importorskip("chex"), path.removeprefix("chex."))
    elif path.startswith("jax.Array."):
        assert hasattr(VALUES["x"], path.rpartition(".")[2])
    else:
        resolve(path)
    if row.kind in HANDLED or path.startswith("jax.tree_util."):
        return
    args, kwargs = eval(f"capture({example(path, row)})", VALUES)
    call = function(path, row)
    leaves, tree = jax.tree.flatten((list(args), kwargs))
    live = [place for place, leaf in enumerate(leaves) if is_float(leaf)]
    owners = [key for key, value in [*enumerate(args), *kwargs.items()] for _ in jax.tree.leaves(value)]

    def run(*inputs: Any) -> Any:
        filled = list(leaves)
        for place, value in zip(live, inputs, strict=True):
            filled[place] = value
        args, kwargs = jax.tree.unflatten(tree, filled)
        return call(*args, **kwargs)

    primals = [leaves[place] for place in live]
    assert primals or row.kind not in ("op", "identity"), "the example gives it no differentiable argument"
    try:
        shapes = jax.eval_shape(run, *primals)
    except (jax.errors.JAXTypeError, AttributeError):
        shapes = run(*primals)  # wants concrete values
    if row.kind in ("stop", "random", "alloc"):
        if not primals or not any(is_inexact(leaf) for leaf in jax.tree.leaves(shapes)):
            return
    else:
        check_shape(shapes, row)
    try:
        reached = depends(run, primals)
    except (NotImplementedError, jax.errors.JAXTypeError):
        assert row.kind == "stop"  # it cannot be differentiated at all
        return
    for place, flow in zip(live, reached, strict=True):
        key = owners[place]
        assert flow == row.passes(key), f"{row.argument(key) if isinstance(key, int) else key}: {flow}"


def test_few_rows_are_unverified() -> None:
    assert sum(bool(JAX.row(name).extra.get("unverified")) for name in NAMES) < 10
