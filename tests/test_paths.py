"""Liveness, slices, dominators and paths, on tapes written by hand."""

from __future__ import annotations

from tapes import TapeBuilder

from gradaudit.paths import Analysis, merge
from gradaudit.tape import ALWAYS, INDEX, PARAMETER, Edge


def test_live_stops_where_edges_do_not_pass():
    t = TapeBuilder()
    net, x = t.network("net"), t.input("x")
    live = t.module(net, x)
    dead = t.stop(live)
    picked = t.index(live, dead)
    loss = t.op("add", picked, dead)
    t.sink(loss)
    analysis = Analysis(t.tape)
    (view,) = analysis.views
    assert view.live(live) == view.live(picked) == view.live(loss) == analysis.bit(net)
    assert view.live(dead) == 0 and not view.reaches(dead)
    assert analysis.dep(dead) == analysis.mask((net, x))
    assert view.slice == [net, live, picked, loss]


def test_only_differentiated_leaves_count():
    t = TapeBuilder("jax")
    online, target, x = t.arg("online"), t.arg("target"), t.input("x")
    loss = t.op("sub", t.op("call", online, x), t.op("call", target, x))
    t.sink(loss, "grad", (online,))
    analysis = Analysis(t.tape)
    (view,) = analysis.views
    assert analysis.leaves(view.live(loss)) == [online]
    assert analysis.alive(loss) == analysis.mask((online, target))


def test_contradicting_guards_make_no_path():
    t = TapeBuilder()
    net, x = t.network("net"), t.input("x")
    flag = t.symbol("stop")
    on, off = frozenset({(flag, True)}), frozenset({(flag, False)})
    value = t.module(net, x)
    first = t.op("phi", Edge(value, True, "data", on), Edge(t.stop(value), True, "data", off))
    second = t.op("phi", Edge(t.const(0), True, "data", on), Edge(first, True, "data", off))
    third = t.op("phi", Edge(first, True, "data", on), Edge(t.const(0), True, "data", off))
    t.sink(second)
    t.sink(third)
    without, within = Analysis(t.tape).views
    assert without.live(second) == 0
    assert within.live(third) and within.guards(first, within.mask) == [on]


def test_a_weaker_guard_absorbs_a_stronger_one():
    one, both = frozenset({("a", True)}), frozenset({("a", True), ("b", True)})
    known = {ALWAYS: 1}
    assert not merge(known, one, 1)
    assert merge(known, one, 2)
    assert not merge(known, both, 3)
    assert known == {ALWAYS: 1, one: 2}


def test_loops_settle():
    t = TapeBuilder()
    first, second, x = t.network("first"), t.network("second"), t.input("x")
    head = t.op("phi", t.module(first, x), detail="loop")
    body = t.module(second, head)
    head.inputs.append(Edge(body))
    t.sink(t.op("mean", head))
    analysis = Analysis(t.tape)
    (view,) = analysis.views
    assert view.live(head) == view.live(body) == analysis.mask((first, second))
    assert analysis.dep(head) == analysis.mask((first, second, x))


def test_dominators_and_paths():
    t = TapeBuilder()
    net, x = t.network("net"), t.input("x")
    value = t.module(net, x)
    left, right = t.op("neg", value), t.op("exp", value)
    joined = t.op("add", left, right)
    loss = t.op("mean", joined)
    t.sink(loss)
    (view,) = Analysis(t.tape).views
    leaves = view.live(loss)
    assert view.dominators(loss, leaves) == [loss, joined, value]
    assert len(view.path(loss, leaves)) == 5 and view.path(loss, leaves)[-1] is net
    assert view.way_to_loss(left) == [left, joined, loss]
    assert view.forward([left]) == {left, joined, loss}
    assert view.consumers(value) == [(left, Edge(value)), (right, Edge(value))]


def test_parameters_of_a_frozen_layer_do_not_pass():
    t = TapeBuilder()
    net, x = t.network("net"), t.input("x")
    value = t.op("module_call", Edge(net, False, PARAMETER), x, Edge(x, False, INDEX))
    t.sink(value)
    analysis = Analysis(t.tape)
    assert analysis.views[0].live(value) == 0
    assert analysis.dep(value) == analysis.mask((net, x))


def test_own_and_trained():
    t = TapeBuilder()
    mine, other, x = t.network("mine"), t.network("other"), t.input("x")
    loss = t.op("add", t.module(mine, x), t.module(other, x))
    sink = t.sink(loss)
    analysis = Analysis(t.tape)
    assert analysis.views[0].own is None and analysis.views[0].trained == analysis.mask((mine, other))
    sink.own = frozenset({mine})
    analysis = Analysis(t.tape)
    assert analysis.views[0].own == analysis.views[0].trained == analysis.bit(mine)
