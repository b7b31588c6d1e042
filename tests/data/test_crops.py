from __future__ import annotations

import tracemalloc

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoden.data.crops import EpochPlan, TilePlan, fitting_crop, reflected_indices

SIDES = st.integers(1, 140)


def tiling_of(shape: tuple, tile: int, radius: int, step: int, reach: int) -> tuple:
    """Return what `TilePlan` takes: halo and margin are multiples of the step, the margin at most the halo."""
    halo = -(-radius // step) * step
    return shape, tile, halo, step, min(-(-reach // step) * step, halo)


tilings = st.builds(
    tiling_of,
    st.tuples(SIDES, SIDES),
    st.integers(1, 200),
    st.integers(0, 40),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(0, 40),
)
plans = st.tuples(
    st.lists(st.tuples(st.integers(32, 90), st.integers(32, 90)), min_size=1, max_size=9),
    st.integers(8, 32),
    st.integers(1, 9),
    st.integers(0, 10**6),
    st.integers(0, 50),
)
QUICK = settings(deadline=None, max_examples=80)


@QUICK
@given(tilings)
def test_tiles_write_every_pixel_exactly_once(tiling: tuple) -> None:
    plan = TilePlan(*tiling)
    times = np.zeros(tiling[0], dtype=int)
    for tile in plan:
        y_first, y_last, x_first, x_last = tile.write
        assert 0 <= y_first < y_last <= tiling[0][0]
        assert 0 <= x_first < x_last <= tiling[0][1]
        times[y_first:y_last, x_first:x_last] += 1
    assert np.all(times == 1)


@QUICK
@given(tilings)
def test_all_tiles_have_one_shape_that_the_network_takes(tiling: tuple) -> None:
    plan, step = TilePlan(*tiling), tiling[3]
    sizes = {(t.read[1] - t.read[0], t.read[3] - t.read[2]) for t in plan}
    assert sizes == {plan.tile_shape}
    assert plan.tile_shape[0] % step == plan.tile_shape[1] % step == 0


@QUICK
@given(tilings)
def test_kept_pixels_come_from_the_place_where_they_go(tiling: tuple) -> None:
    for tile in TilePlan(*tiling):
        assert tuple(k + r for k, r in zip(tile.keep, np.repeat(tile.read[::2], 2))) == tile.write


@QUICK
@given(tilings)
def test_kept_pixels_have_the_halo_around_them_where_the_image_is_cut(tiling: tuple) -> None:
    plan = TilePlan(*tiling)
    for axis in (0, 1):
        lines = {(t.read[2 * axis : 2 * axis + 2], t.keep[2 * axis : 2 * axis + 2]) for t in plan}
        end = max(read[1] for read, _ in lines)
        assert end >= tiling[0][axis] + plan.margin
        for read, keep in lines:
            assert read[0] == -plan.margin or keep[0] >= plan.halo
            assert read[1] == end or keep[1] <= read[1] - read[0] - plan.halo


@QUICK
@given(tilings)
def test_image_that_fits_is_one_tile_with_no_more_than_its_margin(tiling: tuple) -> None:
    shape, _, halo, step, margin = tiling
    plan = TilePlan(shape, 1000, halo, step, margin)
    assert len(plan) == 1
    assert all(length < side + 2 * margin + step for length, side in zip(plan.tile_shape, shape))


@QUICK
@given(tilings)
def test_tiles_start_at_multiples_of_the_step(tiling: tuple) -> None:
    assert all(tile.read[0] % tiling[3] == tile.read[2] % tiling[3] == 0 for tile in TilePlan(*tiling))


@QUICK
@given(tilings)
def test_tiles_are_not_larger_than_asked_where_the_halo_allows(tiling: tuple) -> None:
    _, side, halo, step, _ = tiling
    assert max(TilePlan(*tiling).tile_shape) <= max(side, 2 * halo + step)


@QUICK
@given(tilings)
def test_reads_are_inside_the_reflected_image(tiling: tuple) -> None:
    shape = tiling[0]
    for tile in TilePlan(*tiling):
        for first, last, side in ((*tile.read[:2], shape[0]), (*tile.read[2:], shape[1])):
            indices = reflected_indices(first, last, side)
            assert len(indices) == last - first
            assert 0 <= indices.min() <= indices.max() < side


@QUICK
@given(st.integers(2, 60), st.integers(0, 59))
def test_reflection_is_that_of_numpy(side: int, margin: int) -> None:
    margin = min(margin, side - 1)
    expected = np.pad(np.arange(side), margin, mode="reflect")
    np.testing.assert_array_equal(reflected_indices(-margin, side + margin, side), expected)


@QUICK
@given(plans)
def test_crops_lie_inside_and_batches_are_full(plan: tuple) -> None:
    shapes, crop, batch_size, seed, epoch = plan
    batches = EpochPlan.draw(shapes, crop, batch_size, seed, epoch).batches
    assert {len(batch) for batch in batches} == {batch_size}
    for cut in (cut for batch in batches for cut in batch):
        assert 0 <= cut.y <= shapes[cut.pair][0] - crop
        assert 0 <= cut.x <= shapes[cut.pair][1] - crop
        assert 0 <= cut.view < 8


@QUICK
@given(plans)
def test_every_pair_gets_as_many_crops_as_a_grid_has(plan: tuple) -> None:
    shapes, crop, batch_size, seed, epoch = plan
    cuts = [cut.pair for batch in EpochPlan.draw(shapes, crop, batch_size, seed, epoch).batches for cut in batch]
    stride = crop // 2
    wanted = [((y - crop) // stride + 1) * ((x - crop) // stride + 1) for y, x in shapes]
    assert all(cuts.count(number) >= count for number, count in enumerate(wanted))
    assert len(cuts) - sum(wanted) < batch_size


@QUICK
@given(plans)
def test_same_seed_and_epoch_give_the_same_plan(plan: tuple) -> None:
    shapes, crop, batch_size, seed, epoch = plan
    first, second = (EpochPlan.draw(shapes, crop, batch_size, seed, epoch) for _ in range(2))
    assert first.batches == second.batches


def test_another_seed_or_epoch_gives_another_plan() -> None:
    made = [EpochPlan.draw([(90, 90)] * 4, 32, 4, seed, epoch).batches for seed in range(4) for epoch in range(4)]
    assert all(made[i] != made[j] for i in range(len(made)) for j in range(i))


@QUICK
@given(plans, st.integers(1, 6))
def test_window_bounds_how_many_pairs_are_open_at_once(plan: tuple, window: int) -> None:
    shapes, crop, batch_size, seed, epoch = plan
    made = EpochPlan.draw(shapes, crop, batch_size, seed, epoch, window)
    uses = {pair: [n for n, wanted in enumerate(made.needs()) if pair in wanted] for pair in range(len(shapes))}
    for number, batch in enumerate(made.batches):
        n_open = sum(used[0] <= number <= used[-1] for used in uses.values())
        # pairs mixed over the window, and those that begin or end within the batch
        assert n_open <= window + 1 + len({cut.pair for cut in batch})


@QUICK
@given(plans)
def test_needs_name_the_pairs_of_every_batch_in_order_of_use(plan: tuple) -> None:
    shapes, crop, batch_size, seed, epoch = plan
    made = EpochPlan.draw(shapes, crop, batch_size, seed, epoch)
    for wanted, batch in zip(made.needs(), made.batches):
        used = [cut.pair for cut in batch]
        assert wanted == sorted(set(used), key=used.index)


def test_part_of_a_plan_has_the_batches_of_the_whole() -> None:
    made = EpochPlan.draw([(90, 90)] * 4, 32, 4, 1, 0)
    whole = list(made.batches)
    for first, stop in ((0, 3), (2, None), (5, 5), (3, 10**6)):
        assert list(made.part(first, stop).batches) == whole[first:stop]
        assert made.part(first, stop).needs() == made.needs()[first:stop]
    assert made.batches[-1] == whole[-1]


def test_plan_of_many_micrographs_takes_little_memory() -> None:
    """What streaming needs must not grow with the number of micrographs."""
    tracemalloc.start()
    made = EpochPlan.draw([(7420, 7676)] * 200, 1024, 8, 1, 0)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    n_crops = 8 * len(made.batches)
    assert kept < 30 * n_crops
    assert peak < 100 * n_crops


def test_all_views_and_both_directions_are_drawn() -> None:
    cuts = [cut for batch in EpochPlan.draw([(256, 256)], 16, 4, 1, 0).batches for cut in batch]
    assert {(cut.view, cut.swap) for cut in cuts} == {(v, s) for v in range(8) for s in (True, False)}


@QUICK
@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=5), SIDES, st.sampled_from([1, 2, 4, 8]))
def test_fitting_crop_is_the_largest_that_fits(shapes: list, crop: int, step: int) -> None:
    found = fitting_crop(shapes, crop, step)
    smallest = min(map(min, shapes))
    assert found % step == 0
    assert found <= min(crop, smallest) < found + step
