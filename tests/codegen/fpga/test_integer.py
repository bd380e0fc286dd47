"""Parts in int8: near the float ones, and their programs equal the integer reference bit for bit."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espalier.codegen.fpga.emit import emit
from espalier.codegen.fpga.integer import IntPart, LinearStep, Ranges, quantise
from espalier.codegen.fpga.program import Builder, Pool
from espalier.schedules.fpga.graph import Add, Attention, Input, Linear, Norm, Part, last_uses
from espalier.schedules.fpga.memory import CapacityError
from espalier.schedules.fpga.plan import choose
from espalier.targets.fpga import isa, latency, semantics
from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.layout import from_tiles, to_tiles
from espalier.targets.fpga.run import run_stream
from espalier.targets.fpga.simulator import Timing
from espalier.targets.host import host
from espalier.targets.parse import parse_target

pytestmark = pytest.mark.unit
G = Geometry(16, 4, 8, 8, 4, 16, 8, 4096, 1024, 256, 32)
TIMING = Timing()


def linear(rng, name, x, n, k, activation="none", density=1.0, size=1.0):
    weight = (rng.normal(0, size * (k * density) ** -0.5, (n, k))).astype(np.float32)
    mask = rng.random((n, k)) < density
    mask[:, 0] = True
    bias = rng.normal(0, 0.1, n).astype(np.float32)
    weight = np.where(mask, weight, 0)
    return Linear(name, name, x, weight, bias, None if density == 1 else mask, "made up", activation)


def pre_norm(
    rng,
    tokens,
    width,
    hidden,
    heads,
    activation="gelu",
    density=0.4,
    masks=("mask",),
    mask="mask",
    square=False,
):
    """A pre-norm layer: its sums are read twice, and its norms read them unrounded."""

    def norm(name, x, residual=None):
        gamma, beta = rng.normal(1, 0.2, width), rng.normal(0, 0.2, width)
        return Norm(name, x, residual, gamma.astype(np.float32), beta.astype(np.float32), 1e-5)

    nodes = (
        norm("n1", "x"),
        linear(rng, "q", "n1", width, width, density=density, size=0.7),
        linear(rng, "k", "n1", width, width, density=density, size=0.7),
        linear(rng, "v", "n1", width, width, density=density),
        Attention("a", "q", "k", "v", mask, heads, (width // heads) ** -0.5, width, square),
        linear(rng, "o", "a", width, width, density=density),
        Add("s1", "x", "o", width),
        norm("n2", "x", "o"),
        linear(rng, "h", "n2", hidden, width, activation, density),
        linear(rng, "y", "h", width, hidden, density=density),
        Add("s2", "s1", "y", width),
        norm("n3", "s1", "y"),
    )
    return Part("part0", (Input("x", width),), masks, nodes, ("s2", "n3"), tokens, True)


def sample(rng, part, keep=1.0):
    values = {item.name: rng.normal(0, 1, (part.tokens, item.features)) for item in part.inputs}
    if any(getattr(node, "square", False) for node in part.nodes):
        return {**values, "mask": np.triu(np.full((part.tokens, part.tokens), -np.inf), 1)}
    kept = rng.random(part.tokens) < keep
    kept[0] = True
    return {**values, "mask": np.where(kept, 0.0, -10_000.0)}


def to_int8(part: IntPart, values):
    return {
        item.name: np.clip(np.round(values[item.name] / part.scales[item.name]), -128, 127).astype(np.int8)
        for item in part.part.inputs
    }


def planned(ints: IntPart, tokens: int, g=G, timing=TIMING, pool=None):
    """The program, and what was planned."""
    model = ints.model(g, tokens)
    found = choose(model, g, timing)
    return emit(ints, model, found.plan, Builder(g, pool)), found


def run_program(ints: IntPart, tokens: int, inputs, masks, g=G):
    """The outputs of the functional simulator, by name."""
    return run(planned(ints, tokens, g)[0], ints, tokens, inputs, masks)[0]


def run(program, ints: IntPart, tokens: int, inputs, masks, kind="functional", timing=TIMING):
    """Outputs by name, and the counters."""
    g = program.geometry
    images = [to_tiles(inputs[item.name], g) for item in ints.part.inputs]
    for name in ints.squares:
        whole = np.full((tokens, tokens), -128, np.int8)
        length = len(masks[name])
        whole[:length, :length] = semantics.hidden(masks[name])
        images.append(to_tiles(whole, g))
    for step in ints.masked:
        mask = np.full(-(-tokens // g.pes) * g.pes, -np.inf)
        mask[: len(masks[step.mask])] = masks[step.mask]
        entries = isa.pack_params(
            "linear",
            bias=semantics.key_bias(mask, step.unit),
            mul=np.full(len(mask), int(step.scores.mul)),
            shift=np.full(len(mask), int(step.scores.shift)),
        )
        images.append(entries)
    assert sum(image.nbytes for image in images) == program.input_bytes
    done = run_stream(kind, g, program.stream, program.constants, images, program.output_bytes, timing)
    out = done.output
    found, at = {}, 0
    for name in ints.part.outputs:
        features = ints.part.features(name)
        shape = (-(-tokens // g.tokens), -(-features // g.banks), g.banks, g.tokens)
        size = int(np.prod(shape))
        found[name] = from_tiles(out[at : at + size].view(np.int8).reshape(shape), tokens, features)
        at += size
    assert at <= program.output_bytes
    return found, done.result.counters


@settings(max_examples=12)
@given(
    seed=st.integers(0, 99),
    tokens=st.integers(1, 40),
    heads=st.integers(1, 3),
    size=st.integers(1, 9),
    hidden=st.integers(1, 50),
    activation=st.sampled_from(["none", "relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh"]),
    density=st.sampled_from([0.15, 0.5, 1.0]),
    kind=st.sampled_from(["none", "keys", "square"]),
)
def test_the_program_equals_the_integer_reference(
    seed, tokens, heads, size, hidden, activation, density, kind
):
    rng = np.random.default_rng(seed)
    masks = () if kind == "none" else ("mask",)
    mask = None if kind == "none" else "mask"
    square = kind == "square"
    part = pre_norm(rng, tokens, heads * size, hidden, heads, activation, density, masks, mask, square)
    ranges = Ranges(part)
    for _ in range(3):
        ranges.add(sample(rng, part, 0.7))
    ints = quantise(part, ranges, G.pes)
    values = sample(rng, part, 0.7)
    inputs, masks = to_int8(ints, values), {"mask": values["mask"]}
    expected = ints(inputs, masks)
    found = run_program(ints, tokens, inputs, masks)
    for name in part.outputs:
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize(("activation", "square"), [("relu", False), ("gelu", True)])
def test_int8_is_near_float(activation, square):
    rng = np.random.default_rng(1)
    part = pre_norm(rng, 24, 48, 80, 4, activation, square=square)
    ranges = Ranges(part)
    for _ in range(30):
        ranges.add(sample(rng, part, 0.7))
    ints = quantise(part, ranges, G.pes)
    values = sample(rng, part, 0.7)
    exact = part.trace(values)
    found = ints(to_int8(ints, values), {"mask": values["mask"]})
    for name in part.outputs:
        error = found[name] * ints.scales[name] - exact[name]
        assert np.sqrt((error**2).mean() / (exact[name] ** 2).mean()) < 0.04


def test_a_shorter_sequence_is_padded_and_its_padding_masked():
    rng = np.random.default_rng(2)
    part = replace(pre_norm(rng, 24, 16, 24, 2), fixed=False)
    ranges = Ranges(part)
    ranges.add(sample(rng, part))
    ints = quantise(part, ranges, G.pes)
    values = {"x": rng.normal(0, 1, (11, 16))}
    inputs = to_int8(ints, values)
    short = ints(inputs, {"mask": np.zeros(11)})
    padded = {"x": np.concatenate([inputs["x"], np.zeros((13, 16), np.int8)])}
    long = run_program(ints, 24, padded, {"mask": np.zeros(11)})
    for name in part.outputs:
        np.testing.assert_array_equal(long[name][:11], short[name])


def test_programs_of_a_pool_share_their_weights():
    rng = np.random.default_rng(3)
    part = pre_norm(rng, 24, 32, 40, 2)
    ranges = Ranges(part)
    ranges.add(sample(rng, part))
    ints = quantise(part, ranges, G.pes)
    pool = Pool(G)
    alone = len(planned(ints, 24)[0].constants)
    planned(ints, 16, pool=pool)
    assert len(planned(ints, 24, pool=pool)[0].constants) == alone == len(bytes(pool))


def test_a_layer_is_dense_where_that_takes_fewer_words_and_says_where_it_does_not_fit():
    rng = np.random.default_rng(4)
    part = pre_norm(rng, 8, 64, 64, 2, density=0.9)
    ranges = Ranges(part)
    ranges.add(sample(rng, part))
    steps = [s for s in quantise(part, ranges, G.pes).steps if isinstance(s, LinearStep)]
    for step in steps:
        words = step.words(G)
        assert set(words) == {"int8-dense", "int8-sparse"} and len(words["int8-dense"]) == -(-64 // G.pes)
        assert step.kernel(G) == min(words, key=lambda name: sum(words[name]))
        assert step.kept == int(step.ints.mask.sum())
    small = replace(G, wgt_depth=4)
    with pytest.raises(CapacityError, match=r"layer q \[64, 64\]: a block of rows takes \d+ weight words"):
        steps[0].kernel(small)


def test_the_costs_name_every_layer_and_their_sum_is_the_total():
    rng = np.random.default_rng(5)
    part = pre_norm(rng, 32, 64, 64, 2)
    ranges = Ranges(part)
    ranges.add(sample(rng, part))
    target = parse_target("fpga -board=pynq-z2")
    ints = quantise(part, ranges, target.geometry.pes)
    items = choose(ints.model(target.geometry, 32), target.geometry, target.timing).items
    assert [layer for layer, _ in items if layer] == ["q", "k", "v", "o", "h", "y"]
    assert {cost.kind for _, cost in items} == {"load", "linear", "turn", "softmax", "norm", "store"}
    assert latency.total([c for _, c in items], target.timing) > sum(c.compute for _, c in items)
    macs = sum(cost.macs for layer, cost in items if layer)
    assert macs == 32 * sum(s.kept for s in ints.steps if isinstance(s, LinearStep))
    assert host() == target.host


def test_a_last_layer_larger_than_the_chip_is_stored_while_it_is_computed():
    rng = np.random.default_rng(7)
    nodes = (linear(rng, "h", "x", 16, 16, "relu"), linear(rng, "y", "h", 300, 16, density=0.5))
    part = Part("part0", (Input("x", 16),), (), nodes, ("y",), 20, True)
    ranges = Ranges(part)
    ranges.add(sample(rng, part))
    ints = quantise(part, ranges, G.pes)
    small = replace(G, act_depth=128)
    streamed = [[step.streamed for step in ints.model(g, 20).steps] for g in (G, small)]
    assert streamed == [[False, False], [False, True]]
    inputs = to_int8(ints, sample(rng, part))
    np.testing.assert_array_equal(run_program(ints, 20, inputs, {}, small)["y"], ints(inputs, {})["y"])
    target = replace(parse_target("pynq-z2"), geometry=small)
    items = choose(ints.model(small, 20), small, target.timing).items
    assert [layer for layer, _ in items] == ["", "h", "y"] and items[-1][1].beats > items[-2][1].beats


def test_a_result_too_wide_for_an_instruction_is_streamed_or_refused():
    rng = np.random.default_rng(8)
    wide = linear(rng, "y", "x", 8 * 2048, 8)
    large = replace(G, act_depth=1 << 15)
    for outputs in (("y",), ("y", "z")):
        nodes = (wide,) if len(outputs) == 1 else (wide, linear(rng, "z", "x", 8, 8))
        part = Part("part0", (Input("x", 8),), (), nodes, outputs, 8, True)
        ranges = Ranges(part)
        ranges.add(sample(rng, part))
        ints = quantise(part, ranges, G.pes)
        if len(outputs) == 1:
            assert ints.model(large, 8).steps[0].streamed and planned(ints, 8, large)[0].stream
        else:
            with pytest.raises(CapacityError, match=r"LINEAR\.output_stride is 2048; 11 bits hold 0\.\.2047"):
                planned(ints, 8, large)


def test_calibration_needs_samples_and_tensors_are_freed_after_their_last_use():
    part = pre_norm(np.random.default_rng(6), 8, 8, 8, 1)
    with pytest.raises(ValueError, match="no sequence to calibrate on"):
        quantise(part, Ranges(part), G.pes)
    last = last_uses(part.nodes, part.outputs)
    assert last["x"] == 7 and last["s1"] == 11 and "s2" not in last


def quantised(part, rng, keep=1.0):
    ranges = Ranges(part)
    for _ in range(2):
        ranges.add(sample(rng, part, keep))
    return quantise(part, ranges, G.pes)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 99),
    tokens=st.integers(1, 70),
    heads=st.integers(1, 4),
    size=st.integers(1, 20),
    hidden=st.integers(1, 200),
    density=st.sampled_from([0.15, 1.0]),
    kind=st.sampled_from(["none", "keys", "square"]),
    share=st.floats(0.05, 1),
)
def test_what_does_not_fit_on_chip_is_stored_and_loaded_again(
    seed, tokens, heads, size, hidden, density, kind, share
):
    rng = np.random.default_rng(seed)
    masks, mask = ((), None) if kind == "none" else (("mask",), "mask")
    part = pre_norm(rng, tokens, heads * size, hidden, heads, "gelu", density, masks, mask, kind == "square")
    ints = quantised(part, rng, 0.7)
    tiles = -(-tokens // G.tokens)
    most = tiles * (6 * -(-heads * size // G.banks) + max(tiles, -(-hidden // G.banks)))
    small = replace(G, act_depth=max(8, round(most * share)))
    try:
        program, found = planned(ints, tokens, small)
    except CapacityError:
        # even a tile at a time, with the keys and values of all heads that share a slot
        assert (
            small.act_depth < 8 * max(hidden // 8, 4 * heads * size // 8 + tiles) + 2 * tiles * heads * size
        )
        return
    values = sample(rng, part, 0.7)
    inputs, masks = to_int8(ints, values), {"mask": values["mask"]}
    got, counters = run(program, ints, tokens, inputs, masks)
    for name, exact in ints(inputs, masks).items():
        np.testing.assert_array_equal(got[name], exact)
    assert bool(found.plan.outside) == (
        program.output_bytes > 2 * tiles * -(-heads * size // 8) * small.word_bytes
    )
    moved = sum(cost.beats for cost in found.costs if cost.kind in ("load", "store"))
    assert moved <= counters["read_beats"] + counters["write_beats"]


@pytest.mark.parametrize(("depth", "leaves"), [(4096, False), (300, False), (160, True), (112, True)])
def test_less_room_on_chip_means_more_traffic_and_the_same_result(depth, leaves):
    rng = np.random.default_rng(9)
    part = pre_norm(rng, 64, 48, 96, 3, density=0.5)
    ints = quantised(part, rng)
    values = sample(rng, part)
    inputs, masks = to_int8(ints, values), {"mask": values["mask"]}
    g = replace(G, act_depth=depth)
    program, found = planned(ints, 64, g)
    got, _ = run(program, ints, 64, inputs, masks)
    for name, exact in ints(inputs, masks).items():
        np.testing.assert_array_equal(got[name], exact)
    whole = planned(ints, 64)[1]
    assert bool(found.plan.outside) == leaves
    assert found.cycles >= whole.cycles
    if leaves:
        assert sum(c.beats for c in found.costs) > sum(c.beats for c in whole.costs)
    assert sum(c.macs for c in found.costs) == sum(c.macs for c in whole.costs)


@pytest.mark.skipif(shutil.which("verilator") is None, reason="verilator is not installed")
@pytest.mark.parametrize("timing", [TIMING, Timing(latency=120), Timing(beats=1, cycles=4)])
def test_the_rtl_stores_and_loads_the_same_in_the_time_predicted(timing):
    g = Geometry(8, 2, 4, 4, 2, 16, 8, 2048, 256, 128, 32)
    rng = np.random.default_rng(1)
    part = pre_norm(rng, 96, 160, 64, 4, density=0.5)
    ints = quantised(part, rng)
    values = sample(rng, part)
    inputs, masks = to_int8(ints, values), {"mask": values["mask"]}
    program, found = planned(ints, 96, g, timing)
    got, counters = run(program, ints, 96, inputs, masks, "rtl", timing)
    for name, exact in ints(inputs, masks).items():
        np.testing.assert_array_equal(got[name], exact)
    assert found.plan.outside and counters["conflicts"] == 0
    assert abs(found.cycles / counters["cycles"] - 1) < 0.10


def test_a_mask_over_queries_and_keys_hides_or_does_not():
    mask = np.array([[0.0, -np.inf], [-10_000.0, 0.0]])
    np.testing.assert_array_equal(semantics.hidden(mask), [[0, -128], [-128, 0]])
    with pytest.raises(ValueError, match="neither 0 nor below -1000"):
        semantics.hidden(np.array([[0.0, -0.5]]))
