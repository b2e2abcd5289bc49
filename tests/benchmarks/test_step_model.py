"""The model of a step: its operations match the product's formula, and its rungs the ladder."""

import dataclasses
import json
from unittest import mock

import pytest

from benchmarks.harness import ROOT
from benchmarks.rungs import ALWAYS, ASKED, NORMS, PRODUCTS, START, TABLE, UPDATE
from benchmarks.step_model import __main__ as program
from benchmarks.step_model import assumptions, block, cluster, step, tables
from benchmarks.train.cases import CASES, make_models
from fastimae.models import flops

PAGE = ROOT / "docs" / "performance.md"
H100 = assumptions.CARDS["H100"]
ON_GPU = {"device": "NVIDIA H100 80GB HBM3", "gpu": {"capability": "9.0"}}


def model_of(name, samples=64):
    return step.model_of(CASES[name], samples)


def counted(make):
    """Call `make` with the seconds of a product replaced by its operations, of a pass by 0."""

    def operations(card, m, n, k, *, weight=False):
        return 2 * m * n * k

    with (
        mock.patch.object(block, "product", operations),
        mock.patch.object(block, "memory", lambda card, moved: 0),
        mock.patch.object(block, "attention_of", lambda *_: (0, 0)),
    ):
        return make()


@pytest.mark.parametrize("rungs", [(), ALWAYS])
@pytest.mark.parametrize("name", tables.TABLE)
def test_a_block_does_the_operations_of_the_formula(name, rungs):
    """Except attention's; products with epilogues count as slower ones."""
    model = model_of(name)
    student = make_models(CASES[name], "meta")[0]
    slower = 1 / H100.epilogues if PRODUCTS in rungs else 1
    for stack, blocks in ((model.encoder, student.blocks), (model.decoder, student.decoder_blocks)):
        rows, d = stack.samples * stack.tokens, stack.width
        hidden = 2 * rows * 4 * d * d
        expected = 3 * stack.samples * flops._transformer(stack.tokens, blocks[:1])
        expected -= 3 * 4 * stack.tokens**2 * d * stack.samples  # attention
        expected += 2 * hidden * (slower - 1)
        found = counted(lambda stack=stack: block.block(H100, stack, rungs).seconds)
        assert found == pytest.approx(expected)


def test_mask_tokens_cost_no_products():
    model = model_of("mae_vit_base_patch16")
    visible, d = 1 + model.visible, model.decoder.width
    few = counted(lambda: block.first_block(H100, model.decoder, visible, ALWAYS)).forward["qkv"]
    many = counted(lambda: block.first_block(H100, model.decoder, visible, ())).forward["qkv"]
    masked = model.samples * model.masked - model.decoder.tokens  # the table has all positions
    assert many - few == 2 * masked * 3 * d * d


@pytest.mark.parametrize("card", assumptions.CARDS)
def test_every_rung_saves_time(card):
    rows = tables.rung_rows(assumptions.CARDS[card])
    for case in tables.TABLE:
        for size in {row["batch"] for row in rows if row["case"] == case}:
            taken = [r["ms"] for r in rows if (r["case"], r["batch"]) == (case, size)]
            assert taken == sorted(taken, reverse=True) and len(set(taken)) == len(taken)


AUDIT = {
    "mae_vit_base_patch16": (48.7, 179.6),
    "imae_vit_base_patch16": (46.1, 167.6),
    "mae_vit_large_patch16": (52.0, 174.8),
}
"""ms of the step before these rungs, modelled by hand, at the benchmark's batch and at four times
that."""


def put_back(model):
    """Compute the seconds of what that model had and this step no longer has.

    That is: sums that were not compiled with norms, rows put back with atomics, 190 small
    operations of i-MAE, twice as many tensors; and a second pass for the gradients of each norm's
    parameters, except the one that had fc2's bias.
    """

    def row(stack, tokens):
        return 2 * stack.samples * tokens * stack.width

    encoder, decoder = model.encoder, model.decoder
    wide, narrow = row(encoder, encoder.tokens), row(decoder, decoder.tokens)
    few = row(decoder, model.masked)
    sums = encoder.depth * (1 + model.teachers) * wide + (decoder.depth - 1) * narrow
    sums += 3 * few - 2 * narrow  # the last block's
    norms = 3 * encoder.depth * wide + 3 * (decoder.depth - 1) * narrow + 2 * narrow + few
    tensors = 24 * (encoder.depth + decoder.depth) - model.tensors
    small = 190 * 1.8e-6 if model.branches == 2 else 0
    return (
        assumptions.memory(H100, sums + norms) + few / 150e9 + small + 3 * tensors * 0.75 * 1.5e-6
    )


@pytest.mark.parametrize("times", [1, step.LARGE_BATCH])
@pytest.mark.parametrize("name", AUDIT)
def test_figures_of_the_audit(name, times):
    model = step.model_of(CASES[name], times * CASES[name].batch_cuda)
    taken = sum(step.parts(H100, model, ()).values()) + put_back(model)
    assert 1e3 * taken == pytest.approx(AUDIT[name][times > 1], rel=5e-3)


def test_a_single_decoder_block_is_the_last_one():
    model = model_of("mae_vit_base_patch16")
    depths = [
        dataclasses.replace(model, decoder=dataclasses.replace(model.decoder, depth=depth))
        for depth in (1, 2, 3)
    ]
    one, two, three = (step.parts(H100, m, ALWAYS).get("decoder", 0) for m in depths)
    assert one == 0 < two < three


def test_a_teacher_is_in_memory_too():
    model = model_of("imae_vit_base_patch16")
    assert cluster.weights(model, 1, sharded=False) == 16 * model.parameters + 2 * model.frozen
    assert cluster.weights(model, 8, sharded=True) > 2 * model.frozen > 2 * 111e6


def test_bytes_of_a_parameter():
    model = model_of("mae_vit_base_patch16")
    rate = H100.copy_bytes * assumptions.ELEMENTWISE
    bytes_before, bytes_now = (
        rate * step.parts(H100, model, rungs)["parameters"] / model.parameters
        for rungs in ((), (UPDATE,))
    )
    assert 56 < bytes_before < 80 and 28 < bytes_now < 30  # with the launches


def test_biases_of_norms_and_attention_are_not_read_again():
    model = model_of("mae_vit_base_patch16")
    before, after = (block.block(H100, model.encoder, rungs).backward for rungs in ((), (NORMS,)))
    assert {"qkv db", "proj db", "fc2 db"} == before.keys() - after.keys()


def test_memory_and_exchange_of_several_gpus():
    model = model_of("mae_vit_base_patch16", 256)
    alone, eight, shards = (
        cluster.share(H100, model, 0.04, gpus, sharded=sharded)
        for gpus, sharded in ((1, False), (8, False), (8, True))
    )
    assert alone.sent == 0 and alone.step == 0.04
    assert alone.weights == 16 * model.parameters  # fp32 master and moments, bf16 copy and gradient
    assert eight.weights - alone.weights == 4 * model.parameters
    assert shards.weights < alone.weights / 6
    assert eight.sent == pytest.approx(2 * 7 / 8 * 4 * model.parameters)
    assert 0.04 < eight.step < 0.04 + eight.exchange


def test_activations_are_what_autograd_keeps():
    """67 MB for a mixture of i-MAE-B: every tensor that backward reads, counted by hand."""
    one = cluster.activations(model_of("imae_vit_base_patch16", 1))
    encoder, decoder = 12 * 50 * 768, 2 * 8 * 197 * 512
    assert one == 32 * (encoder + decoder) and 66e6 < one < 67e6


def measured(tmp_path, rows, **facts):
    path = tmp_path / "train.json"
    path.write_text(json.dumps({**ON_GPU, "ladder": rows, "results": [], **facts}))
    return path


def test_measurements_are_beside_the_model(tmp_path, capsys):
    base = {"case": "mae_vit_base_patch16", "batch_size": 256, "data": "synthetic"}
    predicted = 1e3 * sum(
        step.ladder(H100, step.model_of(CASES[base["case"]], 256))[START].values()
    )
    rows = [
        {**base, "variant": START, "ms": 2 * predicted},
        {**base, "variant": "SDPA", "ms": 1.0},
        {**base, "data": "images", "variant": tables.OURS, "ms": 1.0},
        {**base, "case": "imae_vit_nano_patch8", "variant": START, "ms": 1.0},
    ]
    (row,) = tables.compared(H100, {**ON_GPU, "ladder": rows, "results": []})
    assert row["off"] == pytest.approx(2) and row["rung"] == START
    out = tmp_path / "model.json"
    path = str(measured(tmp_path, rows))
    assert program.main(["--compare", path, "--kernels", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "A model of the H100 SXM 80 GB, not a measurement" in shown
    assert "## Measured on NVIDIA H100 80GB HBM3" in shown
    report = json.loads(out.read_text())
    assert report["model"] and report["compared"] == [row] and report["complete"]


def test_the_rates_are_those_of_the_gpu_that_was_measured(tmp_path, capsys):
    path = str(measured(tmp_path, [], device="NVIDIA H200"))
    for flags, name in ((), "H200 SXM 141 GB"), (("--card", "H100"), "H100 SXM 80 GB"):
        assert program.main(["--compare", path, *flags]) == 0
        assert f"A model of the {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "gpu", "why"),
    [
        ([], True, "its run ended before the first"),
        ([START], False, "measured without a GPU"),
        (["SDPA"], True, "None of its rows"),
    ],
    ids=["none", "cpu", "other"],
)
def test_if_nothing_can_be_compared_a_line_says_why(tmp_path, capsys, rows, gpu, why):
    base = {"case": "mae_vit_base_patch16", "batch_size": 8, "data": "synthetic", "ms": 1.0}
    path = measured(tmp_path, [{**base, "variant": name} for name in rows])
    if not gpu:
        path.write_text(path.read_text().replace('"gpu"', '"none"'))
    assert program.main(["--compare", str(path)]) == 0
    assert why in capsys.readouterr().out


@pytest.mark.parametrize("content", ["no JSON", "{}", "[]", '{"results": [{"model": "mae"}]}'])
def test_a_file_without_measurements_is_refused(tmp_path, capsys, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(SystemExit):
        program.main(["--compare", str(path)])
    assert "other.json" in capsys.readouterr().err


def test_names_are_distinct():
    assert len({START, TABLE, *ALWAYS, *ASKED}) == 1 + len(ALWAYS) + len(ASKED)


def test_options_reach_the_model(tmp_path):
    out = tmp_path / "model.json"
    flags = ["--batch", "32", "--gpus", "2", "16", "--product_share", "0.5", "--card", "H200"]
    assert program.main([*flags, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert {row["batch"] for row in report["rungs"]} == {32}
    assert {row["GPUs"] for row in report["gpus"]} == {2, 16}
    slow = dataclasses.replace(assumptions.CARDS["H200"], epilogues=0.5)
    assert report["rungs"] == tables.rung_rows(slow, 32) != tables.rung_rows(H100, 32)


@pytest.mark.parametrize("flags", ["--batch 0", "--gpus two", "--product_share nan"])
def test_numbers_that_make_no_sense_are_refused(flags, capsys):
    with pytest.raises(SystemExit):
        program.main(flags.split())
    assert flags.split()[1] in capsys.readouterr().err


def test_the_page_has_the_tables_of_the_model():
    """python -m benchmarks.report writes them."""
    text = PAGE.read_text()
    assert tables.filled(text) == text
    assert len(tables.MARKED.findall(text)) == len(tables.IN_PAGES)


def test_the_page_explains_every_rung():
    text = PAGE.read_text()
    assert all(text.count(f"\n| {name} |") == 2 for name in (START, *ALWAYS, *ASKED))
