"""fastimae-eval segment: semantic segmentation on a frozen encoder, or by fine-tuning it."""

from __future__ import annotations

import dataclasses

from fastimae.engine.distributed import World
from fastimae.evaluate.labels.processes import joined_processes
from fastimae.evaluate.options.segment import SegmentOptions
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.results import Results, open_results
from fastimae.evaluate.segmentation.opened import load_trained, open_val
from fastimae.evaluate.segmentation.pictures import draw_class_iou
from fastimae.evaluate.segmentation.scores import in_words
from fastimae.evaluate.segmentation.testing import Tester
from fastimae.evaluate.segmentation.training import Outcome, train
from fastimae.log import log


def run(options: SegmentOptions) -> None:
    """Write log.txt, checkpoints, scenes.png, iou.png, results.json with mIoU; --eval: in eval/."""
    with (
        joined_processes(options) as world,
        open_results(
            options, "segment", inside="eval" if options.eval else "",
            log_dir=options.log_dir, world=world,
        ) as results,
    ):  # fmt: skip
        outcome = (_evaluate if options.eval else train)(options, world, results)
        if outcome is None:
            return
        tester = outcome.tester
        if not tester.scores:  # of a finished run that was resumed
            tester.test(quiet=False)
        skipped = tester.broken_images()
        if world.is_main:
            _draw(tester, results)
            numbers = {
                **tester.scores,
                **outcome.numbers,
                "val_images": len(tester.scenes),
                "bad_images": skipped,
            }
            used = dataclasses.replace(outcome.options, checkpoint=options.source())
            path = results.save(numbers, used, origin=outcome.origin)
            log.info("segment: %s; %s", in_words(tester.scores), path)


def _evaluate(options: SegmentOptions, world: World, _: Results) -> Outcome:
    """Test the model that --resume names, or the run's best one."""
    student, classes, options = load_trained(options)
    val = open_val(options, classes, str(options.source()))
    origin = origin_of(options.source(), student.encoder)
    tester = Tester(student.to(world.device), val, options, world)
    tester.test(quiet=False)
    return Outcome(tester, {}, origin, options)


def _draw(tester: Tester, results: Results) -> None:
    """Draw predictions, and the IoU of each class."""
    title = f"IoU of each class; mIoU {tester.scores['mIoU']:.2f} %"
    draw_class_iou(tester.scores["IoU"], results.picture("iou.png"), title)
    if tester.options.pictures:
        tester.draw(results.picture("scenes.png"), in_words(tester.scores))
