"""Rules that rest on equal values and products, on tapes written by hand: each bug and its nearest neighbour."""

from __future__ import annotations

import importlib

from gradaudit import ownership
from gradaudit.finding import Finding
from gradaudit.paths import Analysis
from gradaudit.tape import Edge, Node
from tests.tapes import TapeBuilder

RULES = {
    "GA104": "gradaudit.rules.ga104_unsafe_default",
    "GA201": "gradaudit.rules.ga201_old_policy",
    "GA202": "gradaudit.rules.ga202_importance_weight",
    "GA203": "gradaudit.rules.ga203_temperature_loss",
    "GA205": "gradaudit.rules.ga205_non_reparameterised_sample",
    "GA303": "gradaudit.rules.ga303_codebook",
    "GA304": "gradaudit.rules.ga304_straight_through",
    "GA401": "gradaudit.rules.ga401_stopped_prediction",
    "GA402": "gradaudit.rules.ga402_loss_without_gradient",
    "GA505": "gradaudit.rules.ga505_tracked_update",
}


def found(t: TapeBuilder) -> list[Finding]:
    ownership.own_sets(t.tape)
    analysis = Analysis(t.tape)
    return [finding for module in RULES.values() for finding in importlib.import_module(module).check(analysis)]


def codes(t: TapeBuilder) -> list[tuple[str, int, str]]:
    return sorted((finding.code, finding.location.line, finding.severity) for finding in found(t))


def select(t: TapeBuilder, flag: str, when_true: Node, when_false: Node) -> Node:
    arms = [(when_true, True), (when_false, False)]
    return t.op("phi", *(Edge(arm, True, guard=frozenset({(flag, value)})) for arm, value in arms), detail="switch")


# -- K3: switches ----------------------------------------------------------------------------------------------------
def td_library(stopped: bool, default: bool, name: str = "stop_target_gradients") -> TapeBuilder:
    """A TD error out of arguments, rlax style, whose target may be stopped."""
    t = TapeBuilder("jax")
    flag = t.symbol(name, default)
    t.function = "td_error"
    v_tm1, r_t, discount_t, v_t = (t.arg(word) for word in ("v_tm1", "r_t", "discount_t", "v_t"))
    target = t.op("add", r_t, t.op("mul", discount_t, v_t))
    t.at(20)
    target = select(t, flag, t.stop(target) if stopped else target, target)
    t.at(30)
    t.sink(t.op("sub", target, v_tm1), "library")
    return t


def test_a_switch_that_stops_is_silent() -> None:
    assert codes(td_library(stopped=True, default=True)) == []


def test_a_switch_without_effect_that_is_on_is_an_error() -> None:
    assert codes(td_library(stopped=False, default=True)) == [("GA104", 20, "error")]


def test_a_switch_without_effect_that_is_off_is_a_warning_where_a_target_is_built() -> None:
    assert codes(td_library(stopped=False, default=False)) == [("GA104", 20, "warning")]


def test_an_unused_option_without_effect_is_silent() -> None:
    t = TapeBuilder()
    flag = t.symbol("stop_grad_representation", False)
    net, head = t.network("encoder"), t.network("head")
    features = t.module(net, t.input("obs"))
    t.sink(t.op("mse_loss", t.module(head, select(t, flag, features, features)), t.input("y")))
    assert codes(t) == []


def test_a_default_that_leaves_a_target_open_is_a_warning() -> None:
    t = td_library(stopped=True, default=False)
    assert [code for code, _, _ in codes(t)] == ["GA104"]
    t = td_library(stopped=True, default=False)
    t.tape.sinks[0].function = "_td_error"
    assert codes(t) == []


def test_the_shift_of_a_log_sum_exp_needs_no_stop() -> None:
    t = TapeBuilder("jax")
    flag = t.symbol("use_stop_gradient", True)
    x = t.arg("scaled_advantages")
    largest = t.op("max", x)
    largest = select(t, flag, largest, largest)
    total = t.op("sum", t.op("exp", t.op("sub", x, largest)))
    t.sink(t.op("add", t.op("log", total), largest), "library")
    assert codes(t) == []


def test_a_stop_that_is_put_back_into_a_sum_counts() -> None:
    """`stop(errors + v) - v` against `errors`: the value is the same and the gradient is not."""
    for stopped, expected in ((True, []), (False, [("GA104", 20, "error")])):
        t = TapeBuilder("jax")
        flag = t.symbol("stop_target_gradients", True)
        v, r, g, v_t = t.arg("v_tm1"), t.arg("r_t"), t.arg("discount_t"), t.arg("v_t")
        errors = t.op("sub", t.op("add", r, t.op("mul", g, v_t)), v)
        whole = t.op("add", errors, v)
        t.at(20)
        t.sink(select(t, flag, t.op("sub", t.stop(whole) if stopped else whole, v), errors), "library")
        assert codes(t) == expected, stopped


# -- K4: a value against itself --------------------------------------------------------------------------------------
def ratio(kind: str) -> TapeBuilder:
    t = TapeBuilder()
    policy, obs, action = t.network("policy"), t.input("obs"), t.input("action")
    optimizer = t.optimizer("adam", policy)
    t.at(10)
    if kind == "no_grad":
        t.grad = False
    old = t.op("log_prob", t.op("dist", t.module(policy, obs), detail="Categorical"), action, name="old_log_prob")
    t.grad = True
    if kind == "stepped":
        t.train(t.op("mean", old), optimizer)
        old = t.stop(old)
    t.at(20)
    new = t.op("log_prob", t.op("dist", t.module(policy, obs), detail="Categorical"), action, name="log_prob")
    if kind == "detach":
        old = t.stop(new)
    if kind == "same":
        old = new
    t.at(30)
    ratio = t.op("exp", t.op("sub", new, old))
    t.train(t.op("neg", t.op("mean", t.op("mul", ratio, t.input("advantage")))), optimizer)
    return t


def test_a_ratio_of_one_computation_is_an_error_at_the_old_side() -> None:
    assert codes(ratio("live")) == [("GA201", 10, "error")]
    assert codes(ratio("same")) == [("GA201", 30, "error")]


def test_a_ratio_with_a_stopped_side_is_silent() -> None:
    assert codes(ratio("no_grad")) == codes(ratio("detach")) == codes(ratio("stepped")) == []


def divergence(first: bool, second: bool, other_mean: bool = False) -> TapeBuilder:
    """KL of a Gaussian with itself; `first` and `second`: whether the second one's mean and deviation are stopped."""
    t = TapeBuilder()
    policy, obs = t.network("policy"), t.input("obs")
    mean, deviation = t.module(policy, obs), t.param("log_std")
    other = t.module(t.network("other"), obs) if other_mean else mean
    t.at(30)
    fixed = t.op("dist", t.stop(other) if first else other, t.stop(deviation) if second else deviation, detail="Normal")
    t.at(40)
    moving = t.op("dist", mean, deviation, detail="Normal")
    t.at(50)
    t.sink(t.op("mean", t.op("kl_divergence", fixed, moving)))
    return t


def test_a_divergence_of_a_distribution_with_itself() -> None:
    assert codes(divergence(True, True)) == []
    assert {code for code, _, _ in codes(divergence(False, True))} == {"GA201"}
    assert {line for _, line, _ in codes(divergence(False, False))} == {30}
    assert codes(divergence(False, False, other_mean=True)) == []


def test_a_residual_block_is_no_cancellation() -> None:
    t = TapeBuilder()
    x = t.module(t.network("encoder"), t.input("obs"))
    step = t.module(t.network("dynamics"), x)
    t.sink(t.op("mean", t.op("square", t.op("sub", t.op("add", x, step), x))))
    assert codes(t) == []


# -- K8: multipliers -------------------------------------------------------------------------------------------------
def temperature(stop_term: bool, stop_factor: bool, own: bool = True) -> TapeBuilder:
    """SAC's two losses, each with its optimizer."""
    t = TapeBuilder()
    actor, critic, obs = t.network("actor"), t.network("critic"), t.input("obs")
    log_alpha = t.param("log_alpha", scalar=True)
    if own:
        first, second = t.optimizer("actor_optimizer", actor), t.optimizer("alpha_optimizer", log_alpha)
    else:
        first = second = t.optimizer("optimizer", actor, log_alpha)
    t.optimizer("critic_optimizer", critic)
    t.at(10)
    dist = t.op("dist", t.module(actor, obs), detail="Normal")
    action = t.op("rsample", dist)
    log_prob = t.op("log_prob", dist, action, name="log_prob")
    t.at(20)
    alpha = t.op("exp", log_alpha)
    alpha = t.stop(alpha) if stop_factor else alpha
    t.at(30)
    loss = t.op("mean", t.op("sub", t.op("mul", alpha, log_prob), t.module(critic, obs, action)))
    t.train(loss, first)
    t.at(40)
    term = t.op("add", t.stop(log_prob) if stop_term else log_prob, t.const(-2.0))
    t.train(t.op("neg", t.op("mean", t.op("mul", t.op("exp", log_alpha), term))), second)
    return t


def test_a_correct_temperature_is_silent() -> None:
    assert codes(temperature(True, True)) == []


def test_the_temperature_s_loss_that_reaches_the_actor() -> None:
    assert [(code, line) for code, line, _ in codes(temperature(False, True))] == [("GA203", 40)]


def test_the_actor_s_loss_that_reaches_the_temperature() -> None:
    assert [(code, line) for code, line, _ in codes(temperature(True, False))] == [("GA203", 20)]


def joint(kind: str) -> TapeBuilder:
    """One JAX loss over policy and multiplier: MPO's penalty and dual."""
    t = TapeBuilder("jax")
    policy, alpha = t.arg("params"), t.arg("alpha")
    kl = t.op("kl_divergence", t.input("old"), t.op("call", policy, t.input("obs"), detail="apply"))
    multiplier = t.op("softplus", alpha)
    t.at(20)
    penalty = t.op("mul", multiplier if kind == "factor" else t.stop(multiplier), kl)
    t.at(30)
    room = t.op("sub", t.const(0.1), kl if kind == "term" else t.stop(kl))
    dual = t.op("mul", multiplier, room)
    t.sink(t.op("mean", t.op("add", penalty, dual)), "grad", (policy, alpha))
    return t


def test_a_dual_and_its_penalty_in_one_loss() -> None:
    assert codes(joint("")) == []
    assert [(code, line) for code, line, _ in codes(joint("term"))] == [("GA203", 30)]
    assert [(code, line) for code, line, _ in codes(joint("factor"))] == [("GA203", 20)]


def test_learned_loss_weights_and_logit_scales_are_silent() -> None:
    t = TapeBuilder()
    net, obs, y = t.network("net"), t.input("obs"), t.input("y")
    weight, scale = t.param("s", scalar=True), t.param("logit_scale", scalar=True)
    optimizer = t.optimizer("adam", net, weight, scale)
    error = t.op("mse_loss", t.op("mul", t.op("exp", scale), t.module(net, obs)), y)
    t.train(t.op("add", t.op("mul", t.op("exp", t.op("neg", weight)), error), weight), optimizer)
    assert codes(t) == []


# -- K7: weights and norms -------------------------------------------------------------------------------------------
def weighted(stopped: bool, name: str = "advantage", exponential: bool = True) -> TapeBuilder:
    """Advantage-weighted regression: exp((q - v) / beta) * log_prob."""
    t = TapeBuilder()
    actor, critic, value, obs = t.network("actor"), t.network("critic"), t.network("value"), t.input("obs")
    t.optimizer("critics", critic, value)
    t.at(10)
    difference = t.op("sub", t.module(critic, obs), t.module(value, obs), name=name)
    t.at(20)
    weight = t.op("exp", t.op("div", difference, t.const(3.0))) if exponential else difference
    weight = t.stop(weight) if stopped else weight
    t.at(30)
    log_prob = t.op("log_prob", t.op("dist", t.module(actor, obs), detail="Normal"), t.input("action"))
    t.at(40)
    t.train(t.op("neg", t.op("mean", t.op("mul", weight, log_prob))), t.optimizer("actor", actor))
    return t


def test_an_exponentiated_advantage_is_a_constant() -> None:
    assert codes(weighted(True)) == []
    assert [(code, line) for code, line, _ in codes(weighted(False))] == [("GA202", 20)]


def test_a_plain_advantage_is_another_rule_s() -> None:
    assert codes(weighted(False, exponential=False)) == []


def test_a_mixture_s_gate_is_no_weight() -> None:
    t = weighted(False, name="gate")
    assert codes(t) == []


def test_an_entropy_is_no_weight() -> None:
    t = TapeBuilder()
    actor, obs = t.network("actor"), t.input("obs")
    logits = t.module(actor, obs)
    log_p = t.op("log_softmax", logits)
    t.train(t.op("sum", t.op("mul", t.op("softmax", logits), log_p)), t.optimizer("adam", actor))
    assert codes(t) == []


def normalised(stopped: bool, axis: str = "") -> TapeBuilder:
    """TD3+BC's scale."""
    t = TapeBuilder()
    actor, critic, obs = t.network("actor"), t.network("critic"), t.input("obs")
    t.optimizer("critic", critic)
    t.at(10)
    q = t.module(critic, obs, t.module(actor, obs))
    t.at(20)
    size = t.op("mean", t.op("abs", q), detail=axis)
    scale = t.op("div", t.const(2.5), t.stop(size) if stopped else size)
    t.at(30)
    t.train(t.op("neg", t.op("mul", scale, t.op("mean", q))), t.optimizer("actor", actor))
    return t


def test_a_scale_made_of_what_it_scales() -> None:
    assert codes(normalised(True)) == []
    assert [(code, line) for code, line, _ in codes(normalised(False))] == [("GA202", 20)]


def test_features_are_normalised_along_an_axis() -> None:
    assert codes(normalised(False, axis="dim=-1")) == []


def test_a_weighted_mean_is_no_norm() -> None:
    t = TapeBuilder()
    net, obs = t.network("net"), t.input("obs")
    weights = t.op("sigmoid", t.module(net, obs))
    total = t.op("sum", t.op("mul", weights, t.op("mse_loss", t.module(t.network("head"), obs), t.input("y"))))
    t.sink(t.op("div", total, t.op("sum", weights)))
    assert codes(t) == []


# -- surrogates and codebooks ----------------------------------------------------------------------------------------
def straight_through(kind: str) -> TapeBuilder:
    t = TapeBuilder()
    encoder, decoder, obs = t.network("encoder"), t.network("decoder"), t.input("obs")
    optimizer = t.optimizer("adam", encoder, decoder)
    t.at(10)
    soft = t.module(encoder, obs)
    hard = t.op("round", soft, passes=False)
    t.at(20)
    if kind == "wrong term":
        code = t.op("add", hard, t.stop(t.op("sub", soft, hard)))
    else:
        difference = t.op("sub", hard, soft)
        code = t.op("add", soft, t.stop(difference) if kind == "right" else difference)
    t.at(30)
    t.train(t.op("mse_loss", t.module(decoder, code), obs), optimizer)
    return t


def test_a_straight_through_estimator() -> None:
    assert codes(straight_through("right")) == []
    assert codes(straight_through("missing")) == [("GA304", 20, "error")]
    assert codes(straight_through("wrong term")) == [("GA304", 20, "error")]


def test_a_scaled_gradient_needs_its_stop() -> None:
    for stopped, expected in ((True, []), (False, [("GA304", 20, "warning")])):
        t = TapeBuilder("jax")
        g, scale = t.arg("g"), t.input("scale")
        rest = t.op("sub", t.const(1.0), scale)
        t.at(20)
        t.sink(t.op("add", t.op("mul", g, scale), t.op("mul", t.stop(g) if stopped else g, rest)), "library")
        assert codes(t) == expected, stopped


def codebook(first: tuple[bool, bool], second: tuple[bool, bool]) -> TapeBuilder:
    """Two terms of a pair (z, q), each with which of its sides are live."""
    t = TapeBuilder()
    encoder, obs = t.network("encoder"), t.input("obs")
    codes_ = t.param("codebook")
    z = t.module(encoder, obs)
    choice = t.op("argmin", t.op("sub", z, codes_), passes=False)
    q = t.op("gather", codes_, Edge(choice, False, "index"))
    terms = []
    for line, (soft, hard) in ((20, first), (30, second)):
        t.at(line)
        terms.append(t.op("mse_loss", z if soft else t.stop(z), q if hard else t.stop(q)))
    t.train(t.op("add", *terms), t.optimizer("adam", encoder, codes_))
    return t


def test_a_codebook_and_its_commitment() -> None:
    assert codes(codebook((False, True), (True, False))) == []
    assert codes(codebook((True, True), (True, True))) == [("GA303", 30, "error")]
    assert codes(codebook((True, False), (True, False))) == [("GA303", 30, "error")]
    assert codes(codebook((False, False), (True, False))) == [("GA303", 20, "error")]


# -- what does not learn ---------------------------------------------------------------------------------------------
def regression(stop: str) -> TapeBuilder:
    t = TapeBuilder()
    encoder, head, obs, y = t.network("encoder"), t.network("head"), t.input("obs"), t.input("y")
    optimizer = t.optimizer("adam", encoder, head) if stop != "probe" else t.optimizer("adam", head)
    t.at(10)
    if stop == "no_grad":
        t.grad = False
    features = t.module(encoder, obs)
    t.grad = True
    if stop in ("detach", "probe"):
        features = t.stop(features)
    t.at(20)
    loss = t.op("mse_loss", t.module(head, features), y)
    t.at(30)
    t.train(t.stop(loss) if stop == "item" else loss, optimizer)
    return t


def test_a_prediction_that_is_stopped() -> None:
    assert codes(regression("")) == codes(regression("probe")) == []
    assert codes(regression("detach")) == [("GA401", 10, "error")]
    assert codes(regression("no_grad")) == [("GA401", 10, "warning")]  # it may be a probe


def test_a_loss_without_gradient() -> None:
    assert codes(regression("item")) == [("GA402", 30, "error")]


def drawn(op: str, scored: bool = False) -> TapeBuilder:
    t = TapeBuilder()
    actor, critic, obs = t.network("actor"), t.network("critic"), t.input("obs")
    t.optimizer("critic", critic)
    dist = t.op("dist", t.module(actor, obs), detail="Normal")
    t.at(10)
    action = t.op(op, dist, passes=op == "rsample")
    t.at(20)
    value = t.module(critic, obs, action)
    loss = t.op("mul", t.op("log_prob", dist, action), t.stop(value)) if scored else value
    t.train(t.op("neg", t.op("mean", loss)), t.optimizer("actor", actor))
    return t


def test_a_sample_that_an_objective_goes_through() -> None:
    assert codes(drawn("rsample")) == codes(drawn("sample", scored=True)) == []
    assert ("GA205", 10, "error") in codes(drawn("sample"))


def test_a_running_statistic() -> None:
    for stopped, expected in ((True, []), (False, ["GA505"])):
        t = TapeBuilder()
        net = t.network("net")
        optimizer = t.optimizer("sgd", net)
        center = t.op("alloc")
        for _ in range(2):
            y = t.module(net, t.input("x"))
            mean = t.op("mean", t.stop(y) if stopped else y)
            t.at(20)
            center = t.op("add", t.op("mul", t.const(0.9), center), t.op("mul", t.const(0.1), mean))
            t.at(30)
            t.train(t.op("mean", t.op("square", t.op("sub", y, center))), optimizer)
        assert [code for code, _, _ in codes(t) if code == "GA505"] == expected, stopped


def test_a_reference_model_in_a_log_ratio() -> None:
    for stopped, expected in ((True, []), (False, [("GA201", "warning")])):
        t = TapeBuilder()
        policy, ids = t.network("policy"), t.input("ids")
        reference = t.network("reference", copy_of=policy)
        optimizer = t.optimizer("adam", policy)
        scores = []
        for line, net in ((10, policy), (20, reference)):
            t.at(line)
            logits = t.op("log_softmax", t.module(net, ids))
            scores.append(t.op("gather", logits, Edge(ids, False, "index")))
        ratio = t.op("sub", scores[0], t.stop(scores[1]) if stopped else scores[1])
        t.at(30)
        t.train(t.op("neg", t.op("mean", t.op("logsigmoid", ratio))), optimizer)
        assert [(code, level) for code, _, level in codes(t)] == expected, stopped
