"""--eval of finetune, segment and detect: a flag that only a training follows is refused."""

import dataclasses

import pytest

from fastimae.evaluate.command import TASKS, options_of
from fastimae.evaluate.options.segment import SegmentOptions
from fastimae.settings import ConfigError

EACH = {
    "checkpoint", "config", "debug", "device", "dist_on_itp", "dist_timeout", "dist_url", "eval",
    "local_rank", "max_pixels", "num_workers", "output_dir", "precision", "recipe", "resume",
    "seed", "world_size",
}  # fmt: skip
MODEL = {
    "decoder_num_heads", "input_size", "mean", "model", "norm_pix_loss", "num_heads", "std",
    "use_ema",
}  # fmt: skip
FOLLOWED = {
    "segment": {*EACH, "input_size", "short_side", "stride", "data_path", "layout", "classes",
                "pictures"},
    "detect": {*EACH, "input_size", "score_threshold", "detections", "coco", "val_annotations",
               "pictures", "save_detections"},
    "finetune": {*EACH, *MODEL, "batch_size", "cls_token", "crop", "data_path", "dist_eval", "ffcv",
                 "global_pool", "image_field", "label_field", "random_init", "val", "value_range"},
}  # fmt: skip
"""What --eval takes: a new flag is a visible decision."""
DATA = {"segment": ["--data_path", "x"], "detect": ["--coco", "x"], "finetune": ["--val", "x"]}


@pytest.fixture
def tested(tmp_path):
    """A function that parses --eval of a task with more flags."""
    (tmp_path / "best.pth").touch()
    fixed = ["--eval", "--resume", str(tmp_path / "best.pth")]
    return lambda task, *flags: options_of(task, [*fixed, *DATA[task], *map(str, flags)])


def refused(tested, task, *flags):
    with pytest.raises(ConfigError) as caught:
        tested(task, *flags)
    return str(caught.value)


@pytest.mark.parametrize("task", DATA)
def test_all_but_these_are_refused(tested, task):
    options = tested(task)
    (rule,) = (rule for rule in options.idle() if rule.why == "with --eval")
    assert rule.applies
    names = {field.name for field in dataclasses.fields(TASKS[task].options)}
    assert names - set(rule.names) == FOLLOWED[task]


@pytest.mark.parametrize("task", DATA)
def test_they_are_named_together_unless_they_are_defaults(tested, task):
    default = TASKS[task].options.epochs
    line = refused(tested, task, "--epochs", default, "--lr", 0.1, "--val_freq", 2, "--no_hflip")
    assert line == "--lr, --val_freq and --hflip have no effect with --eval: drop them"
    line = refused(tested, task, "--layer_decay", 0.5)
    assert line == "--layer_decay has no effect with --eval: drop one of them"


def test_what_a_recipe_or_the_file_of_a_run_sets_is_left_out(tested, tmp_path):
    """They say how the model was trained, and it is tested as it is."""
    options = tested("segment", "--recipe", "ade20k_finetune")
    assert options.frozen and options.recipe == "ade20k_finetune"
    file = tmp_path / "run.yaml"
    file.write_text("epochs: 3\nlayout: voc\nfrozen: false\n")
    options = tested("segment", "--config", file)
    assert options.frozen and (options.epochs, options.layout) == (SegmentOptions.epochs, "voc")
    line = refused(tested, "segment", "--config", file, "--epochs", 4)
    assert line == "--epochs has no effect with --eval: drop one of them"
    file.write_text("epochs: 3\neval: true\n")
    with pytest.raises(ConfigError, match="has no effect with"):
        options_of("segment", ["--config", str(file), "--resume", str(tmp_path / "best.pth"),
                               *DATA["segment"]])  # fmt: skip
