"""Value numbers and linear forms, on tapes written by hand."""

from __future__ import annotations

from gradaudit.paths import Analysis
from gradaudit.tape import Edge, Node
from tests.tapes import TapeBuilder


def analysis(t: TapeBuilder, *roots: Node) -> Analysis:
    """Every root is a loss, so that all of them are in the graph."""
    for root in roots:
        t.sink(root)
    return Analysis(t.tape)


def test_stops_are_transparent_to_values_but_not_to_gradient() -> None:
    t = TapeBuilder()
    x = t.module(t.network("net"), t.input("obs"))
    stopped = t.stop(x)
    a = analysis(t, x, stopped)
    assert a.algebra.same(x, stopped)
    assert not a.algebra.alike(x, stopped)
    assert a.algebra.alike(stopped, t.stop(stopped))


def test_two_calls_of_one_net_are_equal_and_two_nets_are_not() -> None:
    t = TapeBuilder()
    net, other, obs = t.network("net"), t.network("other"), t.input("obs")
    first, second, third, fourth = (
        t.module(net, obs),
        t.module(net, obs),
        t.module(other, obs),
        t.module(net, t.input("next")),
    )
    algebra = analysis(t, first, second, third, fourth).algebra
    assert algebra.same(first, second)
    assert not algebra.same(first, third)
    assert not algebra.same(first, fourth)


def test_a_step_between_two_calls_makes_them_differ() -> None:
    t = TapeBuilder()
    net, obs = t.network("net"), t.input("obs")
    optimizer = t.optimizer("adam", net)
    first = t.module(net, obs)
    t.train(t.op("mean", first), optimizer)
    second, third = t.module(net, obs), t.module(net, obs)
    algebra = analysis(t, first, second, third).algebra
    assert not algebra.same(first, second)
    assert algebra.same(second, third)


def test_a_call_outside_the_loop_that_steps_differs_from_one_inside() -> None:
    t = TapeBuilder()
    net, obs = t.network("net"), t.input("obs")
    optimizer = t.optimizer("adam", net)
    outside = t.module(net, obs)
    t.loops = (1,)
    inside, again = t.module(net, obs), t.module(net, obs)
    t.train(t.op("mean", inside), optimizer)
    algebra = analysis(t, outside, inside, again).algebra
    assert not algebra.same(outside, inside)
    assert algebra.same(inside, again)


def test_samples_and_dropout_are_never_equal() -> None:
    t = TapeBuilder()
    net, drop = t.network("net"), t.network("drop")
    assert drop.leaf is not None and drop.leaf.owner is not None
    drop.leaf.owner.class_name = "Dropout"
    dist = t.op("dist", t.module(net, t.input("obs")), detail="Normal")
    first, second = t.op("rsample", dist), t.op("rsample", dist)
    one, two = t.module(drop, first), t.module(drop, first)
    algebra = analysis(t, first, second, one, two).algebra
    assert not algebra.same(first, second)
    assert not algebra.same(one, two)


def test_different_indices_are_different_values() -> None:
    t = TapeBuilder()
    x = t.module(t.network("net"), t.input("obs"))
    rows, columns, again = t.index(x, detail="[:, None]"), t.index(x, detail="[None]"), t.index(x, detail="[None]")
    algebra = analysis(t, rows, columns, again).algebra
    assert not algebra.same(rows, columns)
    assert algebra.same(columns, again)


def test_a_join_of_equal_values_is_that_value() -> None:
    t = TapeBuilder()
    x = t.module(t.network("net"), t.input("obs"))
    flag = t.symbol("stop")
    arms = [Edge(t.stop(x), True, guard=frozenset({(flag, True)})), Edge(x, True, guard=frozenset({(flag, False)}))]
    join = t.op("phi", *arms, detail="switch")
    idle = t.op("phi", *(edge._replace(source=x) for edge in arms), detail="switch")
    algebra = analysis(t, join, idle).algebra
    assert algebra.same(join, x)
    assert not algebra.alike(join, x)
    assert algebra.alike(idle, x)


def test_loop_heads_are_their_own_value() -> None:
    t = TapeBuilder()
    x = t.module(t.network("net"), t.input("obs"))
    head = t.op("phi", x, detail="loop")
    body = t.op("add", head, t.const(1.0))
    head.inputs.append(Edge(body))
    trivial = t.op("phi", x, detail="loop")
    trivial.inputs.append(Edge(trivial))
    algebra = analysis(t, body, trivial).algebra
    assert not algebra.same(head, x)
    assert algebra.same(trivial, x) or algebra.vn(trivial) != algebra.vn(head)


def test_cycles_without_a_loop_head_end() -> None:
    t = TapeBuilder()
    x = t.module(t.network("net"), t.input("obs"))
    store = t.op("store", t.op("alloc"), x)
    use = t.op("getitem", store)
    store.inputs.append(Edge(use))
    algebra = analysis(t, use).algebra
    assert algebra.vn(use) != algebra.vn(store)
    assert algebra.lin(use).terms


def test_depth_is_no_trouble() -> None:
    t = TapeBuilder()
    x = t.module(t.network("net"), t.input("obs"))
    for _ in range(5000):
        x = t.op("add", x, t.const(1.0))
    algebra = analysis(t, x).algebra
    assert algebra.vn(x) >= 0
    assert algebra.lin(x).constant == 5000.0


def test_what_is_added_and_taken_away_cancels() -> None:
    t = TapeBuilder()
    a, b = t.module(t.network("a"), t.input("obs")), t.module(t.network("b"), t.input("obs"))
    total = t.op("sub", t.op("add", a, b), b)
    algebra = analysis(t, total).algebra
    form = algebra.lin(total)
    assert form.forward() == {algebra.vn(a): 1.0}
    [(plus, minus)] = form.cancelled()
    assert plus.passes and minus.passes and plus.node is b


def test_a_stopped_pair_cancels_in_value_alone() -> None:
    t = TapeBuilder()
    x = t.module(t.network("net"), t.input("obs"))
    zero = t.op("sub", x, t.stop(x))
    algebra = analysis(t, zero).algebra
    form = algebra.lin(zero)
    assert form.forward() == {}
    assert form.gradient() == {algebra.vn(x): 1.0}


def test_straight_through_keeps_the_hard_value_and_the_soft_gradient() -> None:
    t = TapeBuilder()
    z = t.module(t.network("encoder"), t.input("obs"))
    q = t.op("gather", t.param("codebook"), t.op("argmax", z, passes=False))
    out = t.op("add", z, t.stop(t.op("sub", q, z)))
    algebra = analysis(t, out).algebra
    form = algebra.lin(out)
    assert form.forward() == {algebra.vn(q): 1.0}
    assert form.gradient() == {algebra.vn(z): 1.0}


def test_sums_go_through_linear_maps() -> None:
    t = TapeBuilder()
    a, b = t.module(t.network("a"), t.input("obs")), t.module(t.network("b"), t.input("obs"))
    mask = t.input("mask")
    joined = t.op("mul", mask, t.op("mean", t.op("sub", a, b), detail="0"))
    back = t.op("add", joined, t.op("mul", t.op("mean", b, detail="0"), mask))
    algebra = analysis(t, back).algebra
    assert len(algebra.lin(back).forward()) == 1
    half = t.op("div", t.op("mul", a, t.const(2.0)), t.const(2.0))
    assert algebra.lin(half).forward() == {algebra.vn(a): 1.0}


def test_pairwise_differences_do_not_cancel() -> None:
    t = TapeBuilder()
    x = t.module(t.network("net"), t.input("obs"))
    pairs = t.op("sub", t.index(x, detail="[:, None]"), t.index(x, detail="[None]"))
    assert len(analysis(t, pairs).algebra.lin(pairs).forward()) == 2
