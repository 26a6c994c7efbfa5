import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor.core import DataError
from sartor.serve.arrivals import arrivals
from sartor.serve.offer import Offer, cheapest, menu_of
from sartor.serve.policy import PolicySettings, Waiting, batch_of, wait_ms
from sartor.serve.stance import Stance, most_accurate, settle

SMALL = Offer(id="small", accuracy=0.8, times=((1, 1.0), (8, 2.0)))
LARGE = Offer(id="large", accuracy=0.9, times=((1, 4.0), (8, 16.0)))
MENU = (SMALL, LARGE)
SETTINGS = PolicySettings(slo_ms=50, max_batch=8, margin=0.8, busy=0.85, climb=0.7, hold_ms=500.0)
FACTS = {"settings": SETTINGS}


def one(images=1, left=50.0, floor=0.0):
    return Waiting(images=images, left_ms=left, slo_left_ms=50.0, floor=floor)


def test_offers_interpolate_and_extend():
    assert [SMALL.ms(n) for n in (1, 8, 16)] == [1.0, 2.0, 4.0]
    assert SMALL.ms(4) == pytest.approx(1 + 3 / 7)
    assert SMALL.drain_ms(20, 5, 8) == pytest.approx(2 + 2 + SMALL.ms(4))
    assert SMALL.drain_ms(0, 0, 8) == 0
    with pytest.raises(DataError, match="rising numbers"):
        Offer(id="x", accuracy=1, times=((2, 1.0), (1, 1.0)))


def test_points_that_cannot_join_requests_pay_for_each():
    alone = Offer(id="alone", accuracy=0.85, times=((1, 1.0), (8, 1.6)), joins=False)
    assert alone.drain_ms(8, 4, 8) == pytest.approx(4 * alone.ms(2))
    assert [o.id for o in menu_of([alone, SMALL, LARGE], typical=8)] == ["alone", "large"]
    assert [o.id for o in menu_of([alone, SMALL, LARGE], typical=1)] == ["small", "alone", "large"]
    assert batch_of((alone,), [one(), one()], "alone", **FACTS) == (alone, [0])


def test_menu_leaves_out_what_is_slower_and_worse():
    slow = Offer(id="slow", accuracy=0.7, times=((1, 9.0),))
    assert menu_of([LARGE, slow, SMALL]) == MENU
    assert cheapest(MENU, 0.85) is LARGE and cheapest(MENU, 0.95) is None


def test_the_most_accurate_that_keeps_up_is_chosen():
    best = {"share": 0.85, "typical": 1, **FACTS}
    assert most_accurate(MENU, [one()], rate=0.1, **best) == 1
    assert most_accurate(MENU, [one()], rate=0.5, **best) == 0  # 0.5 * 2 ms per image
    assert most_accurate(MENU, [one(8)] * 3, rate=0.1, **best) == 0  # 48 ms of 40
    assert most_accurate(MENU, [one(8)] * 2, rate=0.1, **best) == 1


def test_down_at_once_and_up_after_calm():
    facts = {"typical": 1, **FACTS}
    stance = settle(Stance(point="large"), MENU, [one()], now_ms=0, rate=0.5, **facts)
    assert stance.point == "small"
    for now in range(10, 500, 10):
        stance = settle(stance, MENU, [one()], now_ms=now, rate=0.1, **facts)
        assert stance.point == "small"
    stance = settle(stance, MENU, [one()], now_ms=520, rate=0.1, **facts)
    assert stance.point == "large"
    # good enough to stay, not good enough to climb
    assert settle(stance, MENU, [one()], now_ms=530, rate=0.4, **facts).point == "large"
    low = Stance(point="small", at_ms=0)
    assert settle(low, MENU, [one()], now_ms=9000, rate=0.4, **facts).point == "small"
    assert settle(low, MENU, [one()], now_ms=9000, rate=0.1, **facts).point == "large"


def test_own_deadlines_and_floors_concern_one_call_only():
    assert batch_of(MENU, [one(left=3)], "large", **FACTS)[0] is SMALL
    assert batch_of(MENU, [one(left=3, floor=0.85)], "large", **FACTS)[0] is LARGE
    assert batch_of(MENU, [one(floor=0.85)], "small", **FACTS)[0] is LARGE
    assert batch_of(MENU, [one(), one(floor=0.85), one()], "small", **FACTS)[1] == [0, 2]
    tight = [one(left=3)] * 9  # no client lowers the accuracy of others
    assert most_accurate(MENU, tight[:2], rate=0.1, share=0.85, typical=1, **FACTS) == 1


WAITING = st.builds(
    Waiting,
    images=st.integers(1, 20),
    left_ms=st.floats(-10, 200),
    slo_left_ms=st.floats(-10, 50),
    floor=st.sampled_from([0.0, 0.8, 0.85]),
)


@given(st.lists(WAITING, min_size=1, max_size=20), st.sampled_from(["small", "large"]))
def test_batches_keep_their_promises(queue, point):
    offer, taken = batch_of(MENU, queue, point, **FACTS)
    assert taken[0] == 0 and taken == sorted(set(taken))
    images = sum(queue[place].images for place in taken)
    assert images <= SETTINGS.max_batch or taken == [0]
    assert all(queue[place].floor <= offer.accuracy for place in taken)


def test_admission_counts_what_is_ahead():
    facts = {"running_ms": 1.0, "requests": 2, **FACTS}
    assert wait_ms(MENU, images=8, ahead=16, floor=0, **facts) == pytest.approx(1 + 3 * 2)
    assert wait_ms(MENU, images=8, ahead=16, floor=0.9, **facts) == pytest.approx(1 + 2 * 2 + 16)
    assert wait_ms(MENU, images=1, ahead=0, floor=0.99, **facts) == float("inf")


@pytest.mark.parametrize(
    "wrong", [{"slo_ms": 0}, {"max_batch": 0}, {"busy": 0.5}, {"margin": 0}, {"hold_ms": -1}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(DataError):
        PolicySettings(**{"slo_ms": 50, **wrong})


def test_arrivals_follow_their_profile():
    assert 900 < len(arrivals("poisson", 100, 10)) < 1100
    ramp = arrivals("ramp", 100, 10)
    assert sum(t > 5 for t in ramp) > 2 * sum(t <= 5 for t in ramp)
    burst = arrivals("burst", 100, 8)
    assert sum(2 <= t < 3 or 6 <= t < 7 for t in burst) > 150
    assert arrivals("burst", 50, 4, seed=1) == arrivals("burst", 50, 4, seed=1)
    with pytest.raises(DataError, match="did you mean 'poisson'"):
        arrivals("poison", 1, 1)
    with pytest.raises(DataError, match="out of bounds"):
        arrivals("poisson", 1e6, 600)
