"""Which request is taken next, and which is dropped."""

import threading

import pytest

from lens_core.token_query import TokenQuery
from qlens_tui.engine.messages import (
    Build,
    Cancel,
    Cancelled,
    ComputeBlockTokens,
    ComputeEvidence,
    ComputePaths,
    ComputeSignature,
    Dropped,
    Open,
    PathsReady,
    ReadVocabulary,
    Search,
    SignatureReady,
    Tabulate,
)
from qlens_tui.engine.scheduler import Closed, Desk, Halted
from tests.waiting import PATIENCE


@pytest.fixture
def desk():
    return Desk()


def put(desk, *requests):
    return [event for request in requests for event in desk.put(request)]


def taken(desk, n):
    return [desk.take().id for _ in range(n)]


def test_of_those_that_wait_for_one_pane_the_newest_is_taken(desk):
    told = put(desk, *(ComputeSignature(id=i, layer=0, feature=i) for i in (1, 2, 3)))
    assert told == [Dropped(id=1), Dropped(id=2)]
    assert desk.take().id == 3
    assert desk.take_meanwhile() is None


def test_panes_do_not_drop_each_other_and_the_sides_of_the_paths_are_two(desk):
    asked = (
        ComputeEvidence(id=1, layer=0, feature=0),
        ComputePaths(id=2, layer=0, feature=0, side="value"),
        ComputePaths(id=3, layer=0, feature=0, side="key"),
        ComputeSignature(id=4, layer=0, feature=0),
    )
    assert put(desk, *asked) == []
    assert taken(desk, 4) == [4, 2, 3, 1]  # lists, first shares, then the pass for the layer


def test_background_work_comes_after_everything_and_in_its_order(desk):
    put(desk, Build(id=1), Tabulate(id=2, layer=3), Search(id=3, query=TokenQuery((1,))))
    put(desk, Tabulate(id=4, layer=4))
    assert taken(desk, 4) == [3, 1, 2, 4]


def test_the_atlas_in_sight_comes_after_what_the_panes_show_first_and_before_the_rest(desk):
    put(desk, Tabulate(id=1, layer=4), ReadVocabulary(id=3))
    atlas = Tabulate(id=4, layer=3, in_sight=True)
    put(desk, atlas, ComputeSignature(id=5, layer=3, feature=0))
    put(desk, ComputePaths(id=2, layer=3, feature=0, side="value", stage=1))
    assert taken(desk, 5) == [5, 3, 4, 2, 1]
    with desk.running(atlas):
        put(desk, ComputeEvidence(id=6, layer=3, feature=0))
        assert desk.take_meanwhile().id == 6
        put(desk, ComputePaths(id=7, layer=3, feature=0, side="key"))
        assert desk.take_meanwhile().id == 7
        assert desk.take_meanwhile() is None


def test_an_atlas_that_leaves_or_comes_into_sight_begins_again_in_its_new_place(desk):
    for before, after in ((True, False), (False, True)):
        first = Tabulate(id=1, layer=3, in_sight=before)
        with desk.running(first):
            put(desk, Tabulate(id=2, layer=3, in_sight=before))
            desk.check(first)  # the same once more
            put(desk, Tabulate(id=3, layer=3, in_sight=after))
            with pytest.raises(Halted) as halted:
                desk.check(first)
            assert halted.value.event == Dropped(id=1)
        assert desk.take().id == 3


def test_a_build_gives_way_to_a_pane_but_not_to_another_job(desk):
    build = Build(id=1)
    with desk.running(build):
        put(desk, Tabulate(id=2, layer=0), ComputeSignature(id=3, layer=0, feature=0))
        assert desk.take_meanwhile() == ComputeSignature(id=3, layer=0, feature=0)
        assert desk.take_meanwhile() is None
        desk.check(build)
    assert desk.take().id == 2


def test_a_newer_request_stops_the_running_one_of_its_pane(desk):
    old = ComputeSignature(id=1, layer=0, feature=0)
    with desk.running(old):
        assert put(desk, ComputeSignature(id=2, layer=0, feature=1)) == []
        assert desk.take_meanwhile() is None  # not while the old one is on the stack
        with pytest.raises(Halted) as halted:
            desk.check(old)
    assert halted.value.event == Dropped(id=1)
    assert desk.take().id == 2


def test_work_for_a_whole_layer_goes_on_for_the_next_feature_of_that_layer(desk):
    first = ComputeEvidence(id=1, layer=5, feature=0)
    with desk.running(first):
        put(desk, ComputeEvidence(id=2, layer=5, feature=1))
        desk.check(first)
        put(desk, ComputeEvidence(id=3, layer=6, feature=1))
        with pytest.raises(Halted):
            desk.check(first)
    assert desk.take().id == 3


def test_cancel_reaches_what_waits_and_what_runs_and_nothing_else(desk):
    build = Build(id=1)
    with desk.running(build):
        put(desk, Tabulate(id=2, layer=0))
        assert put(desk, Cancel(id=9, target=2)) == [Cancelled(id=2)]
        assert put(desk, Cancel(id=10, target=77)) == []
        desk.check(build)
        assert put(desk, Cancel(id=11, target=1)) == []
        with pytest.raises(Halted) as halted:
            desk.check(build)
        assert halted.value.event == Cancelled(id=1)


def test_cancelling_what_was_answered_leaves_nothing_behind(desk):
    put(desk, ComputeSignature(id=1, layer=0, feature=0))
    with desk.running(desk.take()):
        pass
    assert put(desk, Cancel(id=2, target=1), Cancel(id=3, target=77)) == []
    assert not desk._halted
    again = ComputeSignature(id=77, layer=0, feature=1)  # ids are a client's to give
    put(desk, again)
    with desk.running(desk.take()):
        desk.check(again)


def test_a_cancel_between_taking_and_beginning_reaches_the_request(desk):
    put(desk, Build(id=1))
    taken = desk.take()
    assert put(desk, Cancel(id=2, target=1)) == []
    with desk.running(taken), pytest.raises(Halted) as halted:
        desk.check(taken)
    assert halted.value.event == Cancelled(id=1)
    assert not desk._halted


def test_a_new_session_stops_what_was_only_just_taken(desk):
    put(desk, Build(id=1))
    taken = desk.take()
    put(desk, Open(id=2, config="other"))
    with desk.running(taken), pytest.raises(Halted):
        desk.check(taken)


def test_who_waits_with_patience_gets_nothing_where_nothing_comes(desk):
    assert desk.take(0.01) is None
    put(desk, Build(id=1))
    assert desk.take(0.01) == Build(id=1)


def test_who_waits_without_patience_waits_on(desk):
    got = []
    worker = threading.Thread(target=lambda: got.append(desk.take()))
    worker.start()
    worker.join(0.05)
    assert worker.is_alive()
    put(desk, Build(id=1))
    worker.join(PATIENCE)
    assert got == [Build(id=1)]


def test_a_new_session_drops_and_stops_everything_and_is_not_opened_meanwhile(desk):
    build, sign = Build(id=1), ComputeSignature(id=2, layer=0, feature=0)
    with desk.running(build), desk.running(sign):
        put(desk, Search(id=3, query=TokenQuery((0,))))
        assert put(desk, Open(id=4, config="other")) == [Dropped(id=3)]
        assert desk.take_meanwhile() is None
        for request in (sign, build):
            with pytest.raises(Halted):
                desk.check(request)
    opened = desk.take()
    assert opened.id == 4
    with desk.running(opened):
        put(desk, ComputeSignature(id=5, layer=0, feature=0))
        assert desk.take_meanwhile() is None  # there is nothing to answer from yet
    assert desk.take().id == 5


def test_a_closed_desk_ends_who_waits_and_who_runs(desk):
    ended = []

    def work():
        try:
            desk.take()
        except Closed:
            ended.append(True)

    worker = threading.Thread(target=work)
    worker.start()
    desk.close()
    worker.join(PATIENCE)
    assert ended == [True]
    with pytest.raises(Closed):
        desk.check(Build(id=1))


def test_lists_give_way_to_a_search_and_not_to_the_features_own_passes(desk):
    sign, split = (
        ComputeSignature(id=1, layer=0, feature=0),
        ComputePaths(id=2, layer=0, feature=0, side="value"),
    )
    put(desk, sign)
    with desk.running(desk.take()):
        put(desk, split, ComputeEvidence(id=3, layer=0, feature=0))
        assert desk.take_meanwhile() is None
        put(desk, Search(id=4, query=TokenQuery((1,))))
        assert desk.take_meanwhile().id == 4


def test_the_pass_that_serves_the_layer_gives_way_to_first_shares_and_comes_before_later_ones(desk):
    evidence = ComputeEvidence(id=1, layer=0, feature=0)
    put(desk, evidence)
    with desk.running(desk.take()):
        put(desk, ComputePaths(id=2, layer=0, feature=0, side="key"))
        put(desk, ComputePaths(id=3, layer=0, feature=0, side="value", stage=1))
        meanwhile = desk.take_meanwhile()
        assert meanwhile.id == 2
        with desk.running(meanwhile):
            assert desk.take_meanwhile() is None
    later = ComputePaths(id=4, layer=0, feature=0, side="key", stage=1)
    with desk.running(later):
        put(desk, evidence)
        assert desk.take_meanwhile().id == 1


def stage(request, *, is_last=False):
    """The answer to a stage: only whether it is the last one counts."""
    if isinstance(request, ComputePaths):
        return PathsReady(id=request.id, paths=None, is_last=is_last)
    return SignatureReady(id=request.id, signature=None, is_last=is_last)


def test_the_first_stage_of_everything_comes_before_the_second_of_anything(desk):
    asked = (
        ComputeSignature(id=1, layer=0, feature=0),
        ComputePaths(id=2, layer=0, feature=0, side="value"),
        ComputePaths(id=3, layer=0, feature=0, side="key"),
    )
    put(desk, *asked, ComputeEvidence(id=4, layer=0, feature=0), Build(id=5))
    order = []
    while len(order) < 10:
        request = desk.take()
        order.append((request.id, getattr(request, "stage", 0)))
        with desk.running(request):
            last = getattr(request, "stage", 0) == 2 or request.id > 3
            event = Dropped(id=request.id) if request.id > 3 else stage(request, is_last=last)
            assert desk.put_back(request, event) == []
        if request.id == 5:
            break
    assert order == [
        (1, 0), (2, 0), (3, 0), (4, 0), (1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (3, 2),
    ]  # fmt: skip
    assert desk.take().id == 5


def test_a_running_later_stage_gives_way_to_a_first_one(desk):
    put(desk, ComputeSignature(id=1, layer=0, feature=0, stage=1))
    with desk.running(desk.take()):
        put(desk, ComputePaths(id=2, layer=0, feature=0, side="value", stage=1))
        assert desk.take_meanwhile() is None
        put(desk, ComputePaths(id=3, layer=0, feature=0, side="key"))
        assert desk.take_meanwhile().id == 3


@pytest.mark.parametrize(
    ("meanwhile", "event"),
    [
        (Cancel(target=1), Cancelled(id=1)),
        (ComputeSignature(id=2, layer=0, feature=1), Dropped(id=1)),
        (Open(id=2, config="c"), Dropped(id=1)),
    ],
)
def test_what_was_cancelled_or_replaced_during_a_stage_has_no_next_one(desk, meanwhile, event):
    put(desk, ComputeSignature(id=1, layer=0, feature=0))
    request = desk.take()
    with desk.running(request):
        put(desk, meanwhile)
        assert desk.put_back(request, stage(request)) == [event]
    assert [each.id for each in desk._waiting] == ([2] if meanwhile.id else [])


def test_a_next_stage_that_waits_can_be_cancelled_and_is_dropped_for_a_newer_request(desk):
    for act, told in (
        (Cancel(target=1), Cancelled(id=1)),
        (ComputeSignature(id=2, layer=0, feature=1), Dropped(id=1)),
    ):
        put(desk, ComputeSignature(id=1, layer=0, feature=0))
        request = desk.take()
        with desk.running(request):
            assert desk.put_back(request, stage(request)) == []
        assert put(desk, act) == [told]
    assert desk.take().id == 2


def test_nothing_is_asked_twice_ahead_of_the_user(desk):
    request = ComputePaths(id=1, layer=0, feature=0, side="key", ahead=True)
    put(desk, request)
    with desk.running(desk.take()):
        assert desk.put_back(request, stage(request)) == []
    assert not desk._waiting


def test_a_blocks_tokens_give_way_to_first_stages(desk):
    put(desk, ComputeBlockTokens(id=1, layer=0, feature=0, side="value", block=3))
    with desk.running(desk.take()):
        put(desk, ComputePaths(id=2, layer=0, feature=0, side="value"))
        assert desk.take_meanwhile().id == 2
