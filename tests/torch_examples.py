"""How test_models_torch.py calls each name of PyTorch: arguments as text, evaluated with its `values`."""

from __future__ import annotations

# How to call a name: the arguments as text (a method's receiver first), by its last component, or by its whole name
# where that differs. Without an entry it is called with a tensor for every parameter up to the first that carries no
# gradient. Values: see `values`. Modules: the constructor's arguments, " | ", those of the call.
TEXT = """
acosh arccosh: x + 1.5
probs_to_logits logits_to_probs: x
broadcast_all: x, y
_sum_rightmost: x, 1
_flatten_dense_tensors: [x, y]
_unflatten_dense_tensors: x.reshape(-1), [y]
torch.nn.init.constant_: x, 0.3
torch.nn.init.sparse_: x, 0.3
torch.nn.init.dirac_: k
torch.nn.init.normal_ torch.nn.init.uniform_ torch.nn.init.zeros_: x
_foreach_add _foreach_sub _foreach_mul _foreach_div _foreach_maximum _foreach_minimum: [x], [y]
_foreach_add_ _foreach_sub_ _foreach_mul_ _foreach_div_ _foreach_maximum_ _foreach_minimum_: [x * 1], [y]
_foreach_lerp: [x], [y], [z]
_foreach_lerp_: [x * 1], [y], [z]
_foreach_zero_: [x * 1]
_foreach_norm: [x]
lstm_cell: x, (y * 1, z * 1), l.reshape(12)[:12].reshape(4, 3).repeat(3, 1), q.repeat(4, 1), t * 1, t * 2
gru_cell: x, y, q.repeat(3, 1), q.repeat(3, 1) * 2, t[:9], t[:9] * 2
rnn_tanh_cell rnn_relu_cell: x, y, q, q * 2, v, w
adaptive_max_pool1d_with_indices max_pool1d_with_indices: s, 2
adaptive_max_pool2d_with_indices max_pool2d_with_indices: g, 2
max_pool3d_with_indices: o, 2
max_unpool1d: s, torch.arange(0, 16, 2).expand(1, 2, 8), 2
max_unpool2d: g, torch.arange(0, 72, 2).reshape(6, 6).expand(1, 4, 6, 6), 2
lp_pool3d: o, 2, 2
fractional_max_pool2d: g, 2, 2
fractional_max_pool3d: o, 2, 2
LPPool3d: 2, 2 | o
FractionalMaxPool2d: 2, 2 | g
FractionalMaxPool3d: 2, 2 | o
MultiLabelMarginLoss: | x, torch.tensor([[0, -1, -1], [1, -1, -1]])
einops.rearrange: x, "a b -> b a"
einops.repeat: x, "a b -> a b 2"
einops.reduce: x, "a b -> a", "mean"
einops.einsum: x, y, "a b, a b -> a"
einops.pack: [x, y], "* b"
einops.unpack: x, [(1,), (1,)], "* b"
Rearrange: "a b -> b a" | x
Reduce: "a b -> a", "mean" | x
unique unique_consecutive: i
zeros_like ones_like empty_like rand_like randn_like: x
std var prod: x, 1
poisson_nll_loss: x, y
torch.poisson_nll_loss: x, y, True, False, 1e-8, 1
poisson: x
mvlgamma mvlgamma_ multigammaln: x + 2, 1
polygamma_: x, 1
polygamma: x, 1
torch.polygamma torch.special.polygamma: 1, x
softshrink: x, 0.1
threshold threshold_: x, 0.1, 0.0
prelu: x - 1, v
glu: e, 1
softmax log_softmax softmin: x, 1
lerp lerp_ addcmul addcmul_ addcdiv addcdiv_: x, y, z
clamp clamp_ clip clip_: x, y * 0 + 0.5, y * 0 + 0.7
clamp_min clamp_min_ clamp_max clamp_max_: x, y
where: m, x, y
torch.Tensor.where: x, m, y
feature_dropout feature_dropout_ feature_alpha_dropout feature_alpha_dropout_: g, 0.3, True
dropout alpha_dropout dropout_ alpha_dropout_: x, 0.3, True
floor_divide floor_divide_: u, u
Tensor: x.float()
DoubleTensor: x
FloatTensor: x.float()
HalfTensor: x.half()
BFloat16Tensor: x.bfloat16()
LongTensor: i
IntTensor ShortTensor ByteTensor CharTensor BoolTensor: [1]
as_subclass: x, torch.Tensor
bernoulli corrcoef cov diff float double half bfloat16 cfloat cdouble as_tensor asarray: x
copysign float_power_ pow_: x, y
histc: u
new_tensor: x, u
frobenius_norm: x, 1
dropout1d: s, 0.01, True
dropout2d: g, 0.3, True
dropout3d: o, 0.01, True
bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift gcd lcm: i, i
bitwise_and_ bitwise_or_ bitwise_xor_ bitwise_left_shift_ bitwise_right_shift_ gcd_ lcm_: i, i
bitwise_not bitwise_not_: i
eq_ ne_ lt_ le_ gt_ ge_ greater_ greater_equal_ less_ less_equal_ not_equal_ logical_and_ logical_or_ logical_xor_: x, y
heaviside nextafter heaviside_ nextafter_: u, u
item: x[0, 0]
numpy tolist: u
from_numpy: u.numpy()
scalar_tensor: 1.0
from_dlpack __array__: u
one_hot: i, 4
bucketize: x, torch.tensor([0.1, 0.5])
searchsorted: torch.tensor([0.1, 0.5]).double(), x
bincount: i[0]
histogramdd: u, 3
unravel_index: i, (2, 3)
multinomial: x, 2
normal: x, y
binomial: u, u
zeros ones empty rand randn: 2, 3
full: (2, 3), 1.0
eye arange tril_indices triu_indices hann_window hamming_window blackman_window bartlett_window kaiser_window: 3
tril_indices triu_indices: 3, 3
range: 0, 3
linspace logspace: 0, 3, 4
full_like: x, 1.0
new new_zeros new_ones new_empty: x, 2, 3
new_full: x, (2, 3), 1.0
randperm: 3
randint: 0, 3, (2,)
randint_like: x, 0, 3
quantile nanquantile: x, 0.3, 1
cumsum cumprod logcumsumexp logsumexp cumsum_ cumprod_ cummax cummin mode: x, 1
dist: x, y
gradient: v
trapz trapezoid cumulative_trapezoid: x, y
diag_embed diagflat: v
trace diagonal tril triu tril_ triu_: q
nuclear_norm: q
kthvalue topk: x, 2
sort msort: x
aminmax std_mean var_mean amax amin: x, dim=1
reshape view: x, (3, 2)
torch.Tensor.expand expand broadcast_to: x, (2, 2, 3)
unsqueeze unsqueeze_: x, 0
unflatten: x, 1, (3, 1)
transpose transpose_ swapaxes swapaxes_ swapdims swapdims_ moveaxis movedim: x, 0, 1
permute: x, (1, 0)
flip: x, (0,)
roll: x, 1
tile: x, (2,)
repeat: x, 2, 1
repeat_interleave: x, 2
rot90: q, 1
as_strided: x, (2, 2), (1, 1)
narrow: x, 1, 0, 2
torch.Tensor.unfold: x, 1, 2, 1
view_as reshape_as expand_as: x, y
resize: x, 2, 3
sum_to_size: x, 1, 3
view_as_real: c
view_as_complex: (e * 1).reshape(2, 2, 2)
pixel_shuffle: g, 2
pixel_unshuffle channel_shuffle native_channel_shuffle: g, 2
fold: h, (4, 3), 2
torch.nn.functional.unfold: g, 2
pad constant_pad_nd: x, (1, 1)
index_select: x, 1, j
select: x, 1, 0
take: x, j
take_along_dim: x, i, 1
masked_select: x, m
gather: x, 1, i
torch.embedding: x, j
embedding: j, x
embedding_bag: i[:, :2] % 2, x
masked_fill masked_fill_: x, m, y[0, 0]
masked_scatter masked_scatter_: x, m, y
scatter scatter_add scatter_ scatter_add_: x, 1, i[:, :1], y[:, :1]
scatter_reduce scatter_reduce_: x, 1, i, y, "sum"
index_add index_copy index_add_ index_copy_: x, 0, j[:1], y[:1]
index_fill index_fill_: x, 0, j[:1], y[0, 0]
index_reduce index_reduce_: x, 0, j, y, "prod"
index_put index_put_: x, (j[:1],), y[:1]
put put_: x, j, y[0, :2]
diagonal_scatter: q, v
slice_scatter: x, y[:1], 0, 0, 1
select_scatter: x, y[0], 0, 0
as_strided_scatter: x, y[:, :2], (2, 2), (3, 1)
copy_: x, y
fill_ fill_diagonal_ fill: x, y[0, 0]
fill_diagonal_: x, 1.0
zero_: x
normal_ uniform_ random_ exponential_ bernoulli_ cauchy_ log_normal_: x
geometric_: x, 0.3
resize_: u, (2, 3)
set_: u, u
resize_as_: u, u
stack hstack vstack dstack column_stack row_stack cat concat concatenate: [x, y]
block_diag broadcast_tensors: x, y
meshgrid cartesian_prod: v, w
combinations: v, 2
split chunk tensor_split: x, 2, 1
hsplit: e, 2
vsplit: x, 2
dsplit: b[..., :2], 2
split_with_sizes: x, (1, 1), 0
unsafe_chunk unsafe_split: x, 2, 1
unbind: x
to torch.Tensor.type: x, torch.float64
type_as: x, u
complex polar: x, y
imag angle conj: c
tensordot: x, y
vdot dot inner: v, w
ger outer: v, w
matmul mm: x, q
bmm: b[:, :2], b
mv: x, v
chain_matmul: x, q
multi_dot: [x, q]
einsum: "ij,ij->i", x, y
addmm addmm_: x, y, q
addmv addmv_: v[:2], x, w
addr addr_: x, v[:2], w
addbmm addbmm_: q, b, b
baddbmm baddbmm_: b, b, b * 2
cross: x, y
cdist: x, y
det logdet inverse pinverse cholesky matrix_exp cholesky_inverse inv pinv eigvalsh svdvals: q
eigvals: q
matrix_power: q, 2
tensorinv: q, 1
torch.linalg.diagonal: q
torch.linalg.vander: v
solve: q, x.T
tensorsolve: q.reshape(3, 3, 1), x.T[:, 0]
cholesky_solve: x.T, q
solve_triangular: q, x.T, upper=True
triangular_solve: x.T, q
qr slogdet eigh eig svd: q
svd_lowrank pca_lowrank: q
cond matrix_rank: q
lstsq: q, x.T
renorm renorm_: x, 2, 0, 0.1
stft: s[0], 4, return_complex=True
irfft hfft irfft2 irfftn: x
fftfreq rfftfreq: 4
linear: x, q, v
conv1d: s, l[:, :2, :3], l[:, 0, 0]
conv2d: g, k[:, :, :2, :2], k[:, 0, 0, 0]
conv3d: o, o.transpose(0, 1)[:, :1].expand(2, 2, 4, 4, 4), v[:2]
conv_transpose1d: s, l[:2, :, :3], l[:, 0, 0]
conv_transpose2d: g, k[:, :, :2, :2], k[:, 0, 0, 0]
conv_transpose3d: o, o.transpose(0, 1)[:, :1].expand(2, 2, 4, 4, 4), v[:2]
bilinear: x, y, b, v
layer_norm: x, (3,), v, w
rms_norm: x, (3,), v
group_norm: g, 2, r, r * 2
batch_norm: x, v.detach().clone(), w.detach().clone(), v, w, True
instance_norm: g, None, None, r, r * 2
local_response_norm: g, 2
scaled_dot_product_attention: b, b * 2, b * 3
avg_pool1d max_pool1d adaptive_avg_pool1d adaptive_max_pool1d: s, 2
avg_pool2d max_pool2d adaptive_avg_pool2d adaptive_max_pool2d: g, 2
avg_pool3d max_pool3d adaptive_avg_pool3d adaptive_max_pool3d: o, 2
lp_pool1d: s, 2, 2
lp_pool2d: g, 2, 2
interpolate upsample upsample_nearest upsample_bilinear: g, 3
grid_sample: g, g[:, :3, :3, :2]
affine_grid: b[:, :2], (3, 1, 2, 2)
kl_div: n, x
nll_loss multi_margin_loss: x, j
multilabel_margin_loss: x, torch.tensor([[0, -1, -1], [1, -1, -1]])
gaussian_nll_loss: x, y, z
cosine_embedding_loss: x, y, torch.tensor([1.0, -1.0])
margin_ranking_loss: x, y, torch.ones(2, 3)
soft_margin_loss hinge_embedding_loss: x, torch.sign(u - 0.5)
triplet_margin_loss triplet_margin_with_distance_loss: x, y, z
ctc_loss: b.log_softmax(-1), torch.ones(3, 1, dtype=torch.long), torch.tensor([2, 2, 2]), torch.tensor([1, 1, 1])
Linear: 3, 4 | x
LazyLinear: 4 | x
Conv1d ConvTranspose1d: 2, 3, 2 | s
LazyConv1d LazyConvTranspose1d: 3, 2 | s
Conv2d ConvTranspose2d: 4, 3, 2 | g
LazyConv2d LazyConvTranspose2d: 3, 2 | g
Conv3d ConvTranspose3d: 2, 3, 2 | o
LazyConv3d LazyConvTranspose3d: 3, 2 | o
BatchNorm1d: 3 | x
LazyBatchNorm1d: | x
BatchNorm2d: 4 | g
LazyBatchNorm2d: | g
BatchNorm3d: 2 | o
LazyBatchNorm3d: | o
LayerNorm RMSNorm: 3 | x
GroupNorm: 2, 4 | g
PReLU: | x - 1
InstanceNorm1d: 2 | s
InstanceNorm2d: 4 | g
InstanceNorm3d: 2 | o
Bilinear: 3, 3, 2 | x, y
Embedding EmbeddingBag: 4, 3 | i
LSTM: 3, 2 | b, (b[:1, :, :2] * 1, b[:1, :, :2] * 2)
GRU RNN: 3, 2 | b, b[:1, :, :2] * 2
LSTMCell: 3, 2 | x, (y[:, :2] * 1, z[:, :2] * 1)
GRUCell RNNCell: 3, 2 | x, y[:, :2] * 1
MultiheadAttention: 3, 1 | b, b * 2, b * 3
TransformerEncoderLayer: 3, 1, 4 | b
TransformerEncoder: torch.nn.TransformerEncoderLayer(3, 1, 4), 1 | b
TransformerDecoderLayer: 3, 1, 4 | b, b * 2
TransformerDecoder: torch.nn.TransformerDecoderLayer(3, 1, 4), 1 | b, b * 2
Transformer: 3, 1, 1, 1, 4 | b, b * 2
Threshold: 0.1, 0.0 | x
Softshrink: 0.1 | x
GLU: | e
Softmax LogSoftmax Softmin: 1 | x
Softmax2d: | g
FeatureAlphaDropout Dropout2d: | g
Dropout1d: 0.01 | s
Dropout3d: 0.01 | o
MaxPool1d AvgPool1d AdaptiveAvgPool1d AdaptiveMaxPool1d: 2 | s
MaxPool2d AvgPool2d AdaptiveAvgPool2d AdaptiveMaxPool2d: 2 | g
MaxPool3d AvgPool3d AdaptiveAvgPool3d AdaptiveMaxPool3d: 2 | o
LPPool1d: 2, 2 | s
LPPool2d: 2, 2 | g
Upsample UpsamplingNearest2d UpsamplingBilinear2d: 3 | g
Unflatten: 1, (3, 1) | x
PixelShuffle PixelUnshuffle ChannelShuffle: 2 | g
Fold: (4, 3), 2 | h
Unfold: 2 | g
ReflectionPad1d ReplicationPad1d ZeroPad1d CircularPad1d: 1 | s
ReflectionPad2d ReplicationPad2d ZeroPad2d CircularPad2d: 1 | g
ReflectionPad3d ReplicationPad3d ZeroPad3d CircularPad3d: 1 | o
ConstantPad1d: 1, 0.0 | s
ConstantPad2d: 1, 0.0 | g
ConstantPad3d: 1, 0.0 | o
LocalResponseNorm CrossMapLRN2d: 2 | g
KLDivLoss: | n, x
NLLLoss MultiMarginLoss: | x, j
GaussianNLLLoss: | x, y, z
CosineEmbeddingLoss: | x, y, torch.tensor([1.0, -1.0])
MarginRankingLoss: | x, y, torch.ones(2, 3)
HingeEmbeddingLoss SoftMarginLoss: | x, torch.sign(u - 0.5)
TripletMarginLoss TripletMarginWithDistanceLoss: | x, y, z
CTCLoss: | b.log_softmax(-1), torch.ones(3, 1, dtype=torch.long), torch.tensor([2, 2, 2]), torch.tensor([1, 1, 1])
pad_sequence pack_sequence: [x, y]
PackedSequence: x, torch.tensor([1, 1])
pack_padded_sequence: b, [3, 2, 1]
pad_packed_sequence: torch.nn.utils.rnn.pack_padded_sequence(b, [2, 2, 2])
AffineTransform: 0.0, 2.0 | x
PowerTransform: 2.0 | x
ComposeTransform: [torch.distributions.TanhTransform()] | x
IndependentTransform: torch.distributions.TanhTransform(), 1 | x
ReshapeTransform: (3,), (3, 1) | x
StackTransform CatTransform: [torch.distributions.TanhTransform()], 0 | x[:1]
"""

EXAMPLES: dict[str, str] = {}
for line in TEXT.strip().splitlines():
    names, _, example = line.partition(":")
    EXAMPLES.update(dict.fromkeys(names.split(), example.strip()))
