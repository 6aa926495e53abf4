"""Tests `streamd/core/cluster/assignment.py`: balanced, and with the fewest moves."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from streamd.core.cluster.assignment import NodeLoad, plan_owners, rank_nodes

NODES = ["a", "b", "c", "d", "e"]


@st.composite
def clusters(draw: st.DrawFn) -> tuple[dict[int, str | None], list[NodeLoad]]:
    """Shards with holders of which some are dead, and living nodes of all kinds."""
    holders = draw(st.dictionaries(st.integers(0, 40), st.none() | st.sampled_from(NODES), min_size=1))
    alive = draw(st.lists(st.sampled_from(NODES), unique=True))
    return holders, [
        NodeLoad(node, is_eligible=eligible, is_able=eligible or draw(st.booleans()))
        for node in alive
        for eligible in [draw(st.booleans())]
    ]


def balanced_counts(shards: int, nodes: int) -> list[int]:
    return sorted((shards + number) // nodes for number in range(nodes))


@given(clusters())
def test_each_shard_goes_to_an_eligible_node_and_counts_differ_by_one_at_most(
    cluster: tuple[dict[int, str | None], list[NodeLoad]],
) -> None:
    holders, nodes = cluster
    eligible = [each.node for each in nodes if each.is_eligible]
    plan = plan_owners(holders, nodes)
    if not eligible:
        return
    counts = Counter(plan.values())
    assert plan.keys() == holders.keys()
    assert sorted(counts[node] for node in eligible) == balanced_counts(len(holders), len(eligible))


@given(clusters())
def test_no_plan_has_fewer_moves(cluster: tuple[dict[int, str | None], list[NodeLoad]]) -> None:
    holders, nodes = cluster
    eligible = [each.node for each in nodes if each.is_eligible]
    if not eligible:
        return
    plan = plan_owners(holders, nodes)
    held = Counter(holder for holder in holders.values() if holder in eligible)
    # The best that balanced counts permit: the largest shares go to those that hold most.
    shares = balanced_counts(len(holders), len(eligible))
    best = sum(min(*pair) for pair in zip(sorted(held[node] for node in eligible), shares, strict=True))
    assert sum(plan[shard] == holder for shard, holder in holders.items() if holder in eligible) == best


@given(clusters())
def test_before_it_is_calm_only_shards_without_an_eligible_holder_move(
    cluster: tuple[dict[int, str | None], list[NodeLoad]],
) -> None:
    holders, nodes = cluster
    eligible = {each.node for each in nodes if each.is_eligible}
    plan = plan_owners(holders, nodes, may_balance=False)
    for shard, holder in holders.items():
        if holder in eligible:
            assert plan[shard] == holder
        elif eligible:
            assert plan[shard] in eligible


@given(clusters())
def test_without_an_eligible_node_those_that_are_able_keep_their_shards_and_take_the_others(
    cluster: tuple[dict[int, str | None], list[NodeLoad]],
) -> None:
    holders, nodes = cluster
    nodes = [NodeLoad(each.node, is_eligible=False, is_able=each.is_able) for each in nodes]
    able = {each.node for each in nodes if each.is_able}
    plan = plan_owners(holders, nodes)
    for shard, holder in holders.items():
        if holder in able:
            assert plan[shard] == holder
        elif able:
            assert plan[shard] in able
        else:
            alive = {each.node for each in nodes}
            assert plan.get(shard) == (holder if holder in alive else None)


@given(clusters(), st.booleans(), st.randoms(use_true_random=False))
def test_a_plan_is_the_same_while_it_is_carried_out(
    cluster: tuple[dict[int, str | None], list[NodeLoad]], may_balance: bool, chance: object
) -> None:
    """A node that prepares a shard does not learn half-way that another node should have it."""
    holders, nodes = cluster
    plan = plan_owners(holders, nodes, may_balance=may_balance)
    now = dict(holders)
    moves = [shard for shard in sorted(plan) if holders[shard] != plan[shard]]
    chance.shuffle(moves)  # type: ignore[attr-defined]
    for shard in moves:
        now[shard] = plan[shard]
        later = plan_owners(now, nodes, may_balance=may_balance)
        assert all(later[other] == plan[other] for other in moves if now[other] == plan[other]), "nothing comes back"
    assert plan_owners(now, nodes, may_balance=may_balance) == plan


@given(st.integers(1, 64), st.integers(1, 5))
def test_a_node_that_comes_or_goes_moves_only_its_share(shards: int, count: int) -> None:
    nodes = [NodeLoad(f"n{number}") for number in range(count)]
    owners = plan_owners(dict.fromkeys(range(shards)), nodes)
    more = plan_owners(dict(owners), [*nodes, NodeLoad("new")])
    moved = [shard for shard in owners if owners[shard] != more[shard]]
    assert all(more[shard] == "new" for shard in moved)
    assert len(moved) in (shards // (count + 1), shards // (count + 1) + 1)
    again = plan_owners({shard: None if node == "new" else node for shard, node in more.items()}, nodes)
    assert all(again[shard] == more[shard] for shard in more if more[shard] != "new")


def test_all_nodes_have_the_same_plan() -> None:
    holders = {0: "a", 1: "a", 2: None, 3: "b", 4: "x"}
    nodes = [NodeLoad("a"), NodeLoad("b"), NodeLoad("c")]
    plans = [plan_owners(dict(reversed(holders.items())), order) for order in (nodes, nodes[::-1])]
    assert plans[0] == plans[1] == plan_owners(holders, nodes)


def test_nodes_try_a_shard_that_stays_free_in_an_order_of_its_own() -> None:
    orders = {tuple(rank_nodes(shard, NODES)) for shard in range(20)}
    assert len(orders) > 10
    assert all(sorted(order) == NODES for order in orders)
    assert rank_nodes(3, NODES) == rank_nodes(3, reversed(NODES))
