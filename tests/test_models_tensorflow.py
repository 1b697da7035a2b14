"""The rows of rules/models/tensorflow.toml against TensorFlow, where it is installed."""

from __future__ import annotations

from typing import Any

import pytest

from gradaudit.models import Row, library

tf = pytest.importorskip("tensorflow")

TF = library("tensorflow")
NAMES = sorted(TF.groups)
MODULES = frozenset({"module", "plain_module", "loss_module"})
CALLED = frozenset({"op", "stop", "identity", "alloc", "random"}) | MODULES

# Arguments as text, by a name's last component or by the whole name; modules: the constructor's, " | ", the call's.
# x y z: (2, 3) in (0.2, 0.8); v: (3,); q: (3, 3) positive definite; g: (1, 6, 6, 2); b: (2, 3, 3); p: rows that sum to
# one; i: two indices; m: a mask like x; d: a constant like x.
EXAMPLES: dict[str, str] = {}
for line in """
acosh: x + 1.5
reciprocal_no_nan: x
multiply_no_nan divide_no_nan xlogy xlog1py xdivy: x, y
scalar_mul: 2.0, x
polyval: [x, y], z
add_n accumulate_n: [x, y]
clip_by_value: x, y * 0 + 0.5, y * 0 + 0.6
clip: x, 0.4, 0.6
clip_by_norm: x, 0.3
clip_by_average_norm: x, 0.1
clip_by_global_norm: [x], 0.3
global_norm: [x]
where: m, x, y
check_numerics: x, "message"
ensure_shape: x, (2, 3)
crelu: x
get_static_value: 1.0
numpy_function: lambda a: a, [x], tf.float32
py_function: lambda a: a, [x], tf.float32
make_tensor_proto: 1.0
constant: 1.0
logical_and logical_or logical_xor: m, m
logical_not reduce_all reduce_any: m
in_top_k: i, x, 1
approximate_equal: x, y
floordiv: x, 0.3
searchsorted: d, d
histogram_fixed_width: x, [0.0, 1.0]
bincount: i
one_hot to_categorical: i, 4
unique unique_with_counts: i
bitcast: x, tf.int32
cast saturate_cast: x, tf.float16
zeros ones: (2, 3)
fill: (2, 3), 1.0
truncated_normal tf.random.normal tf.random.uniform: (2, 3)
stateless_uniform stateless_normal: (2, 3), (1, 2)
random_normal random_uniform: (2, 3)
categorical: x, 2
stateless_categorical: x, 2, (1, 2)
tf.random.gamma: (2,), x
unsorted_segment_sum unsorted_segment_mean: x, i, 3
segment_sum segment_mean: x, i
norm: x
moments: x, 0
top_k: x, 2
reshape: x, (3, 2)
expand_dims: x, 0
tile: x, (1, 2)
broadcast_to: x, (2, 2, 3)
reverse: x, (0,)
reverse_sequence: x, [2, 2], seq_axis=1, batch_axis=0
roll: x, 1, 0
repeat: x, 2
tf.keras.backend.repeat: x, 2
permute_dimensions: x, (1, 0)
swapaxes: x + 0, 0, 1
slice: x, (0, 0), (1, 2)
strided_slice: x, (0, 0), (1, 2)
pad: x, ((0, 1), (0, 0))
diag: v
diag_part band_part trace: q
band_part: q, 1, 1
gather tf.nn.embedding_lookup: q, i
take: q, i
gather_nd: x, [[0, 1]]
boolean_mask: x, m
dynamic_partition: x, i, 3
take_along_axis: x + 0, [[0, 1, 1], [0, 0, 1]], 0
scatter_nd: [[0], [2]], x, (3, 3)
tensor_scatter_nd_update tensor_scatter_nd_add tensor_scatter_nd_sub: x, [[0]], y[:1]
tensor_scatter_nd_max tensor_scatter_nd_min: x, [[0]], y[:1]
stack: [x, y]
concat concatenate: [x, y], 0
unstack: x
split: x, 2
meshgrid: v, v * 2
matmul: x, q
matvec: x, v
tensordot: x, y, 2
batch_dot: b, b * 2
dot: x, q
einsum: "ij,ij->i", x, y
inv det logdet slogdet cholesky expm pinv svd qr eigh matrix_inverse: q
solve lstsq triangular_solve cholesky_solve: q, tf.transpose(x)
cross: x, y
conv1d: b, b, 1, "SAME"
conv2d: g, k, 1, "SAME"
conv3d: g[..., None], k[:, :, :, None, :], (1, 1, 1, 1, 1), "SAME"
depthwise_conv2d: g, k, (1, 1, 1, 1), "SAME"
separable_conv2d conv2d_transpose: unverified
convolution: g, k
bias_add: x, v
max_pool max_pool2d avg_pool avg_pool2d: g, 2, 2, "SAME"
max_pool1d avg_pool1d: b, 2, 2, "SAME"
dropout: x, 0.3
batch_normalization: x, v, v * 2, v * 3, v * 4, 0.001
softmax_cross_entropy_with_logits: p, x
tf.compat.v1.nn.softmax_cross_entropy_with_logits: labels=p, logits=x
softmax_cross_entropy_with_logits_v2: unverified
sparse_softmax_cross_entropy_with_logits: labels=i, logits=x
sigmoid_cross_entropy_with_logits: labels=y, logits=x
weighted_cross_entropy_with_logits: y, x, 2.0
tf.compat.v1.nn.weighted_cross_entropy_with_logits: y, x, pos_weight=2.0
tf.compat.v1.losses.softmax_cross_entropy: p, x
tf.compat.v1.losses.sigmoid_cross_entropy: y, x
huber_loss mean_squared_error absolute_difference: x, y
sparse_categorical_crossentropy: i, p
sparse_softmax_cross_entropy: i, x
categorical_crossentropy binary_crossentropy: p, x
Dense: 4 | x
EinsumDense: "ab,bc->ac", (4,), bias_axes="c" | x
Conv1D Conv1DTranspose: 4, 2 | b
DepthwiseConv1D: 2 | b
Conv2D Conv2DTranspose: 4, 2 | g
SeparableConv2D: 4, 2 | g
DepthwiseConv2D: 2 | g
Conv3D Conv3DTranspose: 4, 2 | g[..., None]
GroupNormalization: 2 | g
Embedding: 4, 3 | i
LSTM GRU SimpleRNN: 3 | b
LSTMCell: 3 | x, [y * 1, z * 1]
GRUCell SimpleRNNCell: 3 | x, y
ConvLSTM2D: 3, 2 | g[:, None]
Bidirectional TimeDistributed: unverified
RNN: tf.keras.layers.LSTMCell(3) | b
MultiHeadAttention: 1, 3 | b, b * 2, b * 3
Activation: "relu" | x
ThresholdedReLU: 0.1 | x
AveragePooling1D MaxPooling1D: 2 | b
AveragePooling2D MaxPooling2D MaxPool2D: 2 | g
set_diag: q, v
meshgrid: v, v * 2
count_nonzero: x
SeparableConv1D: 4, 2 | b
Reshape: (3, 1) | x
Permute: (1,) | x
RepeatVector: 2 | x
Cropping2D ZeroPadding2D UpSampling2D: | g
GlobalAveragePooling1D GlobalMaxPooling1D: | b
GlobalAveragePooling2D GlobalMaxPooling2D: | g
Dropout GaussianNoise GaussianDropout AlphaDropout: 0.3 | x
SpatialDropout1D: 0.3 | b
SpatialDropout2D: 0.3 | g
Concatenate Add Subtract Multiply Average Maximum Minimum: | [x, y]
Dot: 1 | [x, y]
tf.keras.layers.concatenate tf.keras.layers.add tf.keras.layers.subtract tf.keras.layers.multiply: unverified
LayerNormalization: | x
BatchNormalization: | x
SparseCategoricalCrossentropy: | i, p
CategoricalCrossentropy BinaryCrossentropy KLDivergence CosineSimilarity: | p, x
linear: x
identity_tensor: x
""".strip().splitlines():
    names, _, example = line.partition(":")
    EXAMPLES.update(dict.fromkeys(names.split(), example.strip()))


def values() -> dict[str, Any]:
    def leaf(*shape: int) -> Any:
        return tf.Variable(tf.random.stateless_uniform(shape, (len(shape), sum(shape)), 0.2, 0.8))

    y = tf.Variable(tf.random.stateless_uniform((2, 3), (7, 7), 0.2, 0.8))
    x = leaf(2, 3)
    return {
        "tf": tf, "capture": lambda *args, **kwargs: (args, kwargs), "x": x, "y": y,
        "z": tf.Variable(tf.random.stateless_uniform((2, 3), (8, 8), 0.2, 0.8)), "v": leaf(3),
        "q": tf.Variable(tf.eye(3) + 0.1 * tf.random.stateless_uniform((3, 3), (1, 1))), "g": leaf(1, 6, 6, 2),
        "b": leaf(3, 3, 3), "k": leaf(2, 2, 2, 3), "p": tf.Variable(tf.nn.softmax(y)), "i": tf.constant([0, 2]),
        "m": tf.constant([[True, False, True], [False, True, True]]), "d": tf.constant([0.1, 0.3, 0.5]),
    }  # fmt: skip


def resolve(path: str) -> Any:
    value: Any = tf
    for part in path.split(".")[1:]:
        value = getattr(value, part)
    return value


def arguments(path: str, row: Row) -> str:
    text = EXAMPLES.get(path, EXAMPLES.get(path.rpartition(".")[2]))
    if text is not None:
        return text
    live = 0
    while live < len(row.args) and row.passes(live) and row.args[live] not in ("alpha", "ord"):
        live += 1
    if row.kind in ("stop", "identity"):
        live = 2 if row.args[1:2] == ("y",) else 1
    call = ", ".join("xyz"[: max(live, 1)])
    return f"| {call}" if row.kind in MODULES else call


def is_float(value: Any) -> bool:
    return tf.is_tensor(value) and tf.as_dtype(value.dtype).is_floating


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", [name for name in NAMES if TF.row(name).kind in CALLED])
def test_row_says_what_the_tape_does(path: str) -> None:
    row = TF.row(path)
    assert row is not None
    if row.extra.get("unverified"):
        pytest.skip(row.extra["unverified"])
    if path.startswith(("tf.Tensor.", "tf.Variable.", "tf.keras.Model.")):
        return
    try:
        function = resolve(path)
    except AttributeError:
        pytest.skip("not in this version")
    text = arguments(path, row)
    if text == "unverified":
        pytest.skip("no example")
    if row.kind in MODULES and "|" in text:
        built, _, text = text.partition("|")
        function = eval(f"made({built})", {**values(), "made": function})
    with tf.GradientTape(persistent=True) as tape:
        args, kwargs = eval(f"capture({text})", values())
        given = [
            (key, item)
            for key, value in [*enumerate(args), *kwargs.items()]
            for item in (value if isinstance(value, list | tuple) else [value])
            if is_float(item) and "d" not in text.split(", ")
        ]
        for _, item in given:
            tape.watch(item)
        result = function(*args, **kwargs)
        outputs = [leaf for leaf in tf.nest.flatten(result) if is_float(leaf)]
        terms = [tf.reduce_sum(tf.cast(leaf, tf.float32) * weights(leaf)) for leaf in outputs]
        total = tf.add_n([tf.constant(0.0), *terms])
    assert given or row.kind != "op", "the example gives it no differentiable argument"
    for key, item in given:
        gradient = tape.gradient(total, item)
        if isinstance(gradient, tf.IndexedSlices):
            gradient = tf.convert_to_tensor(gradient)
        flow = gradient is not None and bool(tf.reduce_any(gradient != 0))
        assert flow == row.passes(key), f"{row.argument(key) if isinstance(key, int) else key}: {flow}"
    if row.kind == "module":
        names = {variable.path.rpartition("/")[2] for variable in function.trainable_variables}
        assert set(row.extra.get("parameters", "").split()) <= names
        assert any(tape.gradient(total, v) is not None for v in function.trainable_variables)


def weights(leaf: Any) -> Any:
    return tf.cast(tf.random.stateless_uniform(tf.shape(leaf), (3, 4)) + 0.1, tf.float32)
