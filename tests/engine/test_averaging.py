"""Two processes that average their gradients in buckets: the numbers, and the order of events."""

import json

import pytest

RANKS = 2
VARIANTS, REPLAYS = 6, 3  # of averaging_ranks.py


@pytest.fixture(scope="session")
def seen(averaging_ranks):
    """Return what each process recorded."""
    ranks = averaging_ranks
    codes = ranks.report["seen"]["codes"]
    assert codes == [0] * RANKS, ranks.output("seen", 0) + ranks.output("seen", 1)
    return [json.loads((ranks.folder / f"seen-{rank}.json").read_text()) for rank in range(RANKS)]


@pytest.mark.parametrize("run", ["ours fp32", "ours bf16", "accumulated"])
def test_all_processes_have_the_same_weights_after_each_step(run, seen):
    """Equal bits, although their initial weights differ."""
    first, second = (one[run]["digests"] for one in seen)
    assert first == second and len(set(first)) == len(first) > 1


def test_weights_are_those_of_torchs_ddp(seen):
    """Equal bits in fp32: the sum of two has one order, and halving is exact."""
    assert seen[0]["ours fp32"]["digests"] == seen[0]["torch fp32"]["digests"]
    assert seen[0]["ours fp32"]["losses"] == seen[0]["torch fp32"]["losses"]


@pytest.mark.parametrize(
    ("taped", "plain"), [("taped", "ours bf16"), ("taped, accumulated", "accumulated")]
)
def test_steps_that_are_replayed_are_plain_ones(taped, plain, seen):
    """Equal bits, with no Python in between: passes, clipping and the update are on tapes. The one
    reduction that is on no tape tells torch that the other process is alive."""
    for one in seen:
        assert one[plain]["reductions"] > 3  # buckets
        more = {"reductions": one[plain]["reductions"] + 1}
        assert one[taped] == one[plain] | more and one[taped]["failure"] == "None"


def test_where_one_process_cannot_record_none_replays(seen):
    """A process that replays and one that does not would send different things."""
    for one, why in zip(
        seen, ("another process could not record it", "out of memory"), strict=True
    ):
        few = one["one fails"]["digests"]
        assert few == one["ours bf16"]["digests"][: len(few)]
        assert one["one fails"]["failure"] == why


def test_a_gradient_that_would_not_be_averaged_is_an_error(seen):
    """A weight whose copy is in a bucket, but which the loss uses directly."""
    assert all("--update torch" in one["by itself"] for one in seen)


def test_two_processes_train_as_one_on_all_images(seen):
    """Up to bf16 rounding, which differs from that of the joined batch."""
    two, one = seen[0]["ours bf16"], seen[0]["alone"]
    assert two["losses"] == pytest.approx(one["losses"], rel=2e-2)
    assert two["norm"] == pytest.approx(one["norm"], rel=1e-3)
    assert two["losses"][-1] < 0.98 * two["losses"][0]


@pytest.mark.parametrize("variant", range(VARIANTS))
def test_the_order_of_a_step(variant, seen):
    """In the last pass, a bucket is sent as soon as it and all before it are complete. All are
    waited for before the update, and nothing else is sent, whichever process is slow."""
    for one in seen:
        case = one["order"][variant]
        assert case["recorded"] == seen[0]["order"][variant]["recorded"]
        *earlier, last = _passes(case["recorded"])
        assert len(earlier) == case["accum_iter"] - 1
        assert all(event.startswith("gradient") for events in earlier for event in events)
        assert last == _expected(last, case["buckets"])
        after_backward = [event for event in _after_backward(case) if event.startswith("send")]
        assert bool(after_backward) == case["unused"]


@pytest.mark.parametrize("variant", range(VARIANTS))
def test_a_replay_does_the_same_in_the_same_order(variant, seen):
    """With no Python in between, the result on all processes is that of a plain step."""
    for one in seen:
        case = one["order"][variant]
        assert case["replayed"] == [case["recorded"]] * REPLAYS
        assert case["equal"] and case["digest"] == seen[0]["order"][variant]["digest"]


def _passes(events):
    """Return the events of each backward pass, which "backward" ends."""
    passes = [[]]
    for event in events:
        if event == "backward":
            passes.append([])
        else:
            passes[-1].append(event)
    *earlier, before, after = passes
    return [*earlier, before + after]


def _expected(events, buckets):
    """Return the events that follow from the order in which gradients arrived."""
    expected, come, sent = [], set(), 0
    for event in events:
        if event.startswith("gradient"):
            expected.append(event)
            come.add(int(event.split()[1]))
            while sent < len(buckets) and come >= set(buckets[sent]):
                expected.append(f"send {sent}")
                sent += 1
    expected += [f"send {number}" for number in range(sent, len(buckets))]
    return [*expected, *(f"wait {number}" for number in range(len(buckets))), "update"]


def _after_backward(case):
    *_, after = "|".join(case["recorded"]).split("backward")
    return after.strip("|").split("|")
