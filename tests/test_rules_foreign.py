"""GA102, GA204, GA206, GA301, GA302 on tapes written by hand."""

from __future__ import annotations

import pytest
from tapes import TapeBuilder

from gradaudit.ownership import own_sets
from gradaudit.paths import Analysis
from gradaudit.rules import (
    ga102_target_network,
    ga204_foreign_gradient,
    ga206_carried_state,
    ga301_ema_branch,
    ga302_teacher,
)

RULES = (ga102_target_network, ga204_foreign_gradient, ga206_carried_state, ga301_ema_branch, ga302_teacher)


def findings(t: TapeBuilder, rule=None):
    own_sets(t.tape)
    analysis = Analysis(t.tape)
    return [found for each in RULES if rule in (None, each) for found in each.check(analysis)]


def discrete_actor(stopped: bool, cleared: bool = True):
    t = TapeBuilder()
    actor, critic, obs = t.network("actor"), t.network("critic"), t.input("s")
    a, c = t.optimizer("a", actor), t.optimizer("c", critic)
    if cleared:
        t.event("clear", c)
    critic_loss = t.op("square", t.op("sub", t.module(critic, obs), t.input("label")))
    t.sink(critic_loss)
    t.event("step", c)
    probs = t.at(10).module(actor, obs)
    t.grad = not stopped
    q = t.at(11).module(critic, obs)
    t.grad = True
    t.at(13).train(t.op("mean", t.op("mul", probs, q)), a)
    return t


def test_actor_loss_that_does_not_go_through_the_critic():
    (found,) = findings(discrete_actor(False), ga204_foreign_gradient)
    assert (found.location.line, found.severity) == (11, "warning")
    (found,) = findings(discrete_actor(False, cleared=False), ga204_foreign_gradient)
    assert found.severity == "error"
    assert not findings(discrete_actor(True))


def test_actor_loss_through_the_critic():
    t = TapeBuilder()
    actor, critic, obs = t.network("actor"), t.network("critic"), t.input("s")
    a = t.optimizer("a", actor)
    t.optimizer("c", critic)
    t.train(t.op("neg", t.op("mean", t.module(critic, obs, t.module(actor, obs)))), a)
    assert not findings(t)


def test_encoder_of_the_critic_learns_from_the_actor():
    t = TapeBuilder()
    actor, critic, encoder, obs = t.network("actor"), t.network("critic"), t.network("encoder"), t.input("s")
    a = t.optimizer("a", actor)
    t.optimizer("c", critic, encoder)
    z = t.at(5).module(encoder, obs)
    action = t.at(6).module(actor, z)
    t.at(7).train(t.op("neg", t.op("mean", t.module(critic, t.stop(z), action))), a)
    (found,) = findings(t)
    assert (found.code, found.location.line) == ("GA204", 6)


def test_a_shared_value_is_stopped_where_it_is_taken():
    t = TapeBuilder()
    actor, other, obs = t.network("actor"), t.network("other"), t.input("s")
    a, o = t.optimizer("a", actor), t.optimizer("o", other)
    z = t.at(5).module(actor, obs)
    t.at(6).train(t.op("mean", z), a)
    t.at(8).train(t.op("mean", t.op("mul", t.module(other, obs), z)), o)
    (found,) = findings(t)
    assert (found.code, found.location.line) == ("GA204", 8)


def test_separate_terms_of_one_loss():
    t = TapeBuilder()
    actor, critic, obs = t.network("actor"), t.network("critic"), t.input("s")
    a = t.optimizer("a", actor)
    t.optimizer("c", critic)
    t.train(t.op("add", t.op("mean", t.module(actor, obs)), t.op("mean", t.module(critic, obs))), a)
    assert not findings(t)


def byol(stopped: bool, held: bool = True):
    t = TapeBuilder()
    online, predictor = t.network("a"), t.network("p")
    copy = t.network("b", copy_of=online)
    one, two = t.input("x"), t.input("y")
    optimizer = t.optimizer("o", online, predictor) if held else None
    prediction = t.at(5).module(predictor, t.module(online, one))
    t.grad = not stopped
    branch = t.at(6).module(copy, two)
    t.grad = True
    loss = t.at(7).op("neg", t.op("mean", t.op("cosine_similarity", prediction, branch)))
    if optimizer:
        t.train(loss, optimizer)
    else:
        t.sink(loss, "return")
    t.event("soft_update", leaves=(copy,), sources=(online,), weight=0.99)
    return t


@pytest.mark.parametrize("held", [True, False])
def test_momentum_branch(held):
    (found,) = findings(byol(False, held))
    assert (found.code, found.location.line, found.severity) == ("GA301", 6, "warning")
    assert not findings(byol(True, held))


def siamese(stop_first: bool, stop_second: bool, predictor: bool = True):
    t = TapeBuilder()
    net, head = t.network("net"), t.network("head")
    optimizer = t.optimizer("o", net, head)
    z1, z2 = t.at(3).module(net, t.input("x")), t.at(4).module(net, t.input("y"))
    p1 = t.at(5).module(head, z1) if predictor else z1
    p2 = t.at(6).module(head, z2) if predictor else z2
    first = t.at(7).op("cosine_similarity", p1, t.stop(z2) if stop_first else z2)
    second = t.at(8).op("cosine_similarity", p2, t.stop(z1) if stop_second else z1)
    t.at(9).train(t.op("add", first, second), optimizer)
    return t


def test_siamese_without_a_stop():
    assert [found.location.line for found in findings(siamese(False, False))] == [7, 8]
    assert [found.location.line for found in findings(siamese(True, False))] == [8]
    assert not findings(siamese(True, True))
    assert not findings(siamese(False, False, predictor=False))


def distillation(teacher_name: str, held: bool):
    t = TapeBuilder()
    student, teacher, x = t.network("student"), t.network(teacher_name), t.input("x")
    optimizer = t.optimizer("o", *([student, teacher] if held else [student]))
    labels = t.at(4).module(teacher, x)
    t.at(6).train(t.op("kl_div", t.op("log_softmax", t.module(student, x)), t.op("softmax", labels)), optimizer)
    return t


def test_teacher():
    (found,) = findings(distillation("teacher", False))
    assert (found.code, found.location.line, found.severity) == ("GA302", 4, "warning")
    assert not findings(distillation("teacher", True))
    assert not findings(distillation("peer", False))


def test_target_network_outside_a_bootstrap():
    t = TapeBuilder()
    policy = t.network("policy")
    old = t.network("old", copy_of=policy)
    t.event("soft_update", leaves=(old,), sources=(policy,), weight=0.9)
    optimizer = t.optimizer("o", policy)
    obs, reward = t.input("s"), t.input("reward")
    divergence = t.at(7).op("kl_divergence", t.module(policy, obs), t.at(6).module(old, obs))
    t.at(9).train(t.op("add", divergence, t.op("mul", reward, t.module(policy, obs))), optimizer)
    (found,) = findings(t)
    assert (found.code, found.location.line, found.severity) == ("GA102", 6, "warning")


def recurrent(detached: bool):
    t = TapeBuilder()
    rnn, x = t.network("rnn"), t.input("x")
    optimizer = t.optimizer("o", rnn)
    start = t.input("h0")
    t.loops = (1,)
    state = t.at(3).op("phi", start, detail="loop")
    after = t.at(4).module(rnn, x, state)
    t.at(5).train(t.op("mean", after), optimizer)
    carried = t.stop(after) if detached else after
    state.inputs.append(state.inputs[0]._replace(source=carried))
    return t


def test_recurrent_state():
    (found,) = findings(recurrent(False))
    assert (found.code, found.location.line) == ("GA206", 4)
    assert not findings(recurrent(True))


def test_recurrence_within_one_update():
    t = TapeBuilder()
    rnn, x, start = t.network("rnn"), t.input("x"), t.input("h0")
    optimizer = t.optimizer("o", rnn)
    t.loops = (1, 2)
    state = t.op("phi", start, detail="loop")
    after = t.module(rnn, x, state)
    state.inputs.append(state.inputs[0]._replace(source=after))
    t.loops = (1,)
    t.train(t.op("mean", after), optimizer)
    assert not findings(t)


@pytest.mark.parametrize("before", [True, False])
def test_gradient_left_in_the_critic(before):
    t = TapeBuilder()
    actor, critic, obs = t.network("actor"), t.network("critic"), t.input("s")
    a, c = t.optimizer("a", actor), t.optimizer("c", critic)
    if before:
        t.event("clear", c)
    t.sink(t.op("square", t.module(critic, obs)))
    t.event("step", c)
    if not before:
        t.event("clear", c)
    t.at(9).train(t.op("neg", t.op("mean", t.module(critic, obs, t.module(actor, obs)))), a)
    found = findings(t, ga204_foreign_gradient)
    assert [(each.location.line, each.severity) for each in found] == ([] if before else [(9, "error")])


@pytest.mark.parametrize("stopped", [True, False])
def test_one_head_with_and_without_its_encoder(stopped):
    t = TapeBuilder()
    encoder, head = t.network("encoder"), t.network("head")
    optimizer = t.optimizer("o", encoder, head)
    obs, returns = t.input("s"), t.input("r")
    t.train(t.op("mse_loss", t.module(head, t.stop(t.module(encoder, obs))), returns), optimizer)
    z = t.at(27).module(encoder, obs)
    value = t.at(28).module(head, t.stop(z) if stopped else z)
    t.at(29).train(t.op("add", t.op("mse_loss", value, returns), t.op("mean", z)), optimizer)
    assert [each.location.line for each in findings(t)] == ([] if stopped else [28])
