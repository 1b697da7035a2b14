"""GA101 and GA105 on tapes written by hand: the bug fires on its line, its nearest correct neighbours do not."""

from __future__ import annotations

import pytest
from tapes import TapeBuilder

from gradaudit.ownership import own_sets
from gradaudit.paths import Analysis
from gradaudit.rules import ga101_bootstrap_target, ga103_online_bootstrap, ga105_advantage
from gradaudit.tape import INDEX, Edge


def findings(t: TapeBuilder, rule):
    own_sets(t.tape)
    return list(rule.check(Analysis(t.tape)))


def dqn(stop: str = "", reward_name: str = "x", copied: bool = True, shape: bool = False):
    t = TapeBuilder()
    q = t.network("a")
    target = t.network("b", copy_of=q if copied else None)
    obs, after, reward, done = t.input("s"), t.input("z"), t.input(reward_name), t.input("d")
    optimizer = t.optimizer("o", q)
    prediction = t.at(10).module(q, obs)
    t.grad = stop != "block"
    value = t.at(20).op("max", t.module(target, after))
    value = t.stop(value) if stop == "value" else value
    discounted = t.at(21).op("mul", t.op("mul", t.const(0.99), t.op("sub", t.const(1), done)), value)
    y = t.op("add", reward, discounted)
    t.grad = True
    y = t.stop(y) if stop == "target" else y
    y = t.at(25).op("reshape", y) if shape else y
    t.at(30).train(t.op("mse_loss", prediction, y), optimizer)
    return t


def test_target_network_in_the_target():
    (found,) = findings(dqn(), ga101_bootstrap_target)
    assert (found.location.line, found.severity) == (21, "warning")
    assert [step.location.line for step in found.trace] == [30, 21, 20, 2]


def test_a_reshape_after_the_target_does_not_move_the_line():
    (found,) = findings(dqn(shape=True), ga101_bootstrap_target)
    assert found.location.line == 21


@pytest.mark.parametrize("stop", ["block", "value", "target"])
def test_a_stop_anywhere_silences(stop):
    assert not findings(dqn(stop), ga101_bootstrap_target)


def test_unrelated_networks_need_the_reward_to_be_known():
    assert not findings(dqn(copied=False), ga101_bootstrap_target)
    assert findings(dqn(copied=False, reward_name="reward"), ga101_bootstrap_target)


def test_same_network_is_an_error():
    t = TapeBuilder()
    q = t.network("q")
    optimizer = t.optimizer("o", q)
    reward, obs, after = t.input("x"), t.input("s"), t.input("z")
    y = t.at(5).op("add", reward, t.op("mul", t.input("g"), t.module(q, after)))
    t.at(6).train(t.op("mean", t.op("square", t.op("sub", t.module(q, obs), y))), optimizer)
    (found,) = findings(t, ga101_bootstrap_target)
    assert (found.location.line, found.severity) == (5, "error")
    assert "its own target" in found.message


def test_one_sum_without_a_named_target():
    t = TapeBuilder()
    q = t.network("q")
    optimizer = t.optimizer("o", q)
    reward, obs, after = t.input("x"), t.input("s"), t.input("z")
    value = t.at(3).module(q, after)
    error = t.at(5).op("add", t.op("sub", reward, t.module(q, obs)), t.op("mul", t.const(0.9), value))
    t.at(6).train(t.op("square", error), optimizer)
    (found,) = findings(t, ga101_bootstrap_target)
    assert found.location.line == 3


@pytest.mark.parametrize("raw_other", [True, False])
def test_supervised_residual_prediction_is_silent(raw_other):
    t = TapeBuilder()
    net, other = t.network("n"), t.network("m")
    optimizer = t.optimizer("o", net, other)
    x, y = t.input("x"), t.input("y")
    guess = t.op("add", x, t.op("mul", t.const(0.1), t.module(net, x)))
    t.train(t.op("mse_loss", guess, y if raw_other else t.module(other, y)), optimizer)
    assert not findings(t, ga101_bootstrap_target)


def test_linear_regression_is_silent():
    t = TapeBuilder()
    w, b = t.param("w"), t.param("b")
    optimizer = t.optimizer("o", w, b)
    x, y = t.input("x"), t.input("y")
    t.train(t.op("mse_loss", t.op("add", t.op("mul", x, w), b), y), optimizer)
    assert not findings(t, ga101_bootstrap_target)


def actor_critic(stopped: bool):
    t = TapeBuilder()
    actor, critic = t.network("actor"), t.network("critic")
    optimizer = t.optimizer("o", actor, critic)
    obs, after, reward, action = t.input("s"), t.input("z"), t.input("x"), t.input("a")
    score = t.at(5).op("log_prob", t.op("dist", t.module(actor, obs), detail="Categorical"), action)
    target = t.stop(t.op("add", reward, t.op("mul", t.const(0.9), t.module(critic, after))))
    advantage = t.at(8).op("sub", target, t.module(critic, obs))
    weight = t.stop(advantage) if stopped else advantage
    policy = t.at(10).op("neg", t.op("mean", t.op("mul", score, weight)))
    t.at(11).train(t.op("add", policy, t.op("mean", t.op("square", advantage))), optimizer)
    return t


def test_live_advantage():
    (found,) = findings(actor_critic(False), ga105_advantage)
    assert (found.location.line, found.severity) == (10, "error")
    assert not findings(actor_critic(False), ga101_bootstrap_target)


def test_stopped_advantage():
    assert not findings(actor_critic(True), ga105_advantage)


def gae(grad: bool):
    """PPO: the bootstrap value goes through a loop into advantages and returns; one finding at what both share."""
    t = TapeBuilder()
    agent = t.network("agent")
    optimizer = t.optimizer("o", agent)
    rewards, obs, last, action, old = (t.input(n) for n in ("w", "s", "z", "a", "p"))
    t.grad = False
    values = t.at(3).op("store", t.op("alloc"), t.module(agent, obs))
    t.grad = grad
    t.loops = (1,)
    after = t.at(5).op("phi", t.module(agent, last), values, detail="switch")
    delta = t.at(6).op("sub", t.op("add", rewards, t.op("mul", t.const(0.99), after)), values)
    running = t.at(7).op("phi", t.const(0), detail="loop")
    total = t.op("add", delta, t.op("mul", t.const(0.95), running))
    running.inputs.append(running.inputs[0]._replace(source=total, passes=grad))
    advantages = t.at(7).op("store", t.op("alloc"), total)
    t.loops = ()
    returns = t.at(8).op("add", advantages, values)
    t.grad = True
    flat, weights = t.at(10).op("reshape", returns), t.at(11).op("reshape", advantages)
    score = t.op("exp", t.op("sub", t.op("log_prob", t.op("dist", t.module(agent, obs)), action), old))
    policy = t.at(12).op("neg", t.op("mul", score, weights))
    value = t.at(13).op("square", t.op("sub", t.module(agent, obs), flat))
    t.at(14).train(t.op("add", policy, value), optimizer)
    return t


def test_gae_is_one_finding():
    (found,) = findings(gae(True), ga105_advantage)
    assert found.location.line == 7
    assert not findings(gae(True), ga101_bootstrap_target)
    assert not findings(gae(False), ga105_advantage) + findings(gae(False), ga101_bootstrap_target)


def test_library_function_forms_its_bootstrap():
    def loss(reward: str):
        t = TapeBuilder("jax")
        q, after, r, g = (t.arg(n) for n in ("q", "q_next", reward, "discount"))
        y = t.at(4).op("add", r, t.op("mul", g, after))
        t.at(5).sink(t.op("square", t.op("sub", q, y)), "library")
        return t

    (found,) = findings(loss("r_t"), ga101_bootstrap_target)
    assert (found.location.line, found.severity) == (4, "warning")
    assert not findings(loss("bias"), ga101_bootstrap_target)


def test_jax_target_parameters_outside_the_differentiated_set():
    t = TapeBuilder("jax")
    params, old = t.arg("params"), t.input("old_params")
    r, obs, after = t.input("reward"), t.input("s"), t.input("z")
    y = t.op("add", r, t.op("mul", t.const(0.9), t.op("call", old, after)))
    t.sink(t.op("square", t.op("sub", t.op("call", params, obs), y)), "grad", (params,))
    assert not findings(t, ga101_bootstrap_target)


def double(value_from: str, chosen_by: str = "", updated: bool = True):
    t = TapeBuilder()
    q = t.network("a")
    target = t.network("b", copy_of=q)
    optimizer = t.optimizer("o", q)
    obs, after, reward = t.input("s"), t.input("z"), t.input("x")
    t.grad = False
    value = t.at(4).module(q if value_from == "online" else target, after)
    if chosen_by:
        best = t.op("argmax", t.module(q if chosen_by == "online" else target, after), passes=False)
        value = t.at(5).op("gather", value, Edge(best, False, INDEX))
    y = t.at(6).op("add", reward, t.op("mul", t.const(0.9), value))
    t.grad = True
    t.at(8).train(t.op("mse_loss", t.module(q, obs), y), optimizer)
    if updated:
        t.event("soft_update", leaves=(target,), sources=(q,), weight=0.99)
    return t


def test_online_bootstrap():
    (found,) = findings(double("online"), ga103_online_bootstrap)
    assert (found.location.line, found.severity) == (6, "warning")
    assert not findings(double("target"), ga103_online_bootstrap)
    assert not findings(double("target", "online"), ga103_online_bootstrap)
    assert not findings(double("online", "target", updated=False), ga103_online_bootstrap)
