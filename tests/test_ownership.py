"""Own sets and deposits, from events alone."""

from __future__ import annotations

from tapes import TapeBuilder

from gradaudit.ownership import CLEARED, UNHELD, UNKNOWN, USED, deposit, own_sets


def actor_critic(clear_critic: bool):
    t = TapeBuilder()
    actor, critic, obs = t.network("actor"), t.network("critic"), t.input("obs")
    actor_optimizer, critic_optimizer = t.optimizer("actor", actor), t.optimizer("critic", critic)
    if clear_critic:
        t.event("clear", critic_optimizer)
    critic_sink = t.sink(t.op("square", t.module(critic, obs)))
    t.event("step", critic_optimizer)
    t.event("clear", actor_optimizer)
    actor_sink = t.sink(t.op("neg", t.module(critic, obs, t.module(actor, obs))))
    t.event("step", actor_optimizer)
    return t.tape, actor, critic, actor_sink, critic_sink


def test_own_is_what_the_next_steps_take():
    tape, actor, critic, actor_sink, critic_sink = actor_critic(True)
    own_sets(tape)
    assert actor_sink.own == {actor}
    assert critic_sink.own == {critic}


def test_deposit_is_cleared_or_used_by_the_next_event_of_its_holder():
    tape, _, critic, actor_sink, _ = actor_critic(True)
    assert deposit(tape, actor_sink, critic) == CLEARED
    tape, _, critic, actor_sink, _ = actor_critic(False)
    assert deposit(tape, actor_sink, critic) == USED


def test_several_backwards_share_the_step_group_that_follows():
    t = TapeBuilder()
    a, b, x = t.network("a"), t.network("b"), t.input("x")
    first, second = t.optimizer("a", a), t.optimizer("b", b)
    one = t.sink(t.op("square", t.module(a, x)))
    two = t.sink(t.op("square", t.module(b, x)))
    t.event("step", first)
    t.event("step", second)
    own_sets(t.tape)
    assert one.own == two.own == {a, b}


def test_unknown_contents_and_unheld_leaves():
    t = TapeBuilder()
    a, b, x = t.network("a"), t.network("b"), t.input("x")
    optimizer = t.optimizer("all", a, complete=False)
    sink = t.train(t.op("square", t.op("add", t.module(a, x), t.module(b, x))), optimizer)
    own_sets(t.tape)
    assert sink.own is None
    assert deposit(t.tape, sink, b) == UNKNOWN
    optimizer.complete = True
    assert deposit(t.tape, sink, b) == UNHELD


def test_grad_owns_what_it_differentiates():
    t = TapeBuilder("jax")
    params, x = t.arg("params"), t.input("x")
    sink = t.sink(t.op("square", t.op("call", params, x)), "grad", (params,))
    own_sets(t.tape)
    assert sink.own == {params}
