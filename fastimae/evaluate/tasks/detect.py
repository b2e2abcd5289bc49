"""fastimae-eval detect: object detection and instance segmentation by Mask R-CNN on the encoder."""

from __future__ import annotations

import dataclasses

from fastimae.engine.distributed import World
from fastimae.evaluate.detection.opened import load_trained, open_val
from fastimae.evaluate.detection.report import draw, in_words
from fastimae.evaluate.detection.testing import Tester
from fastimae.evaluate.detection.training import Outcome, train
from fastimae.evaluate.labels.processes import joined_processes
from fastimae.evaluate.options.detect import DetectOptions
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.results import Results, open_results
from fastimae.log import log

DETECTIONS = "detections.json"


def run(options: DetectOptions) -> None:
    """Write log.txt, checkpoints, pictures, results.json with AP and AP_mask; --eval: in eval/."""
    with (
        joined_processes(options) as world,
        open_results(
            options, "detect", inside="eval" if options.eval else "",
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
            _save(outcome, results, skipped)


def _evaluate(options: DetectOptions, world: World, _: Results) -> Outcome:
    """Test the detector that --resume names, or the run's best one."""
    student, classes, options = load_trained(options)
    val = open_val(options, classes)
    origin = origin_of(options.source(), student.encoder)
    tester = Tester(student.to(world.device), val, options, world)
    tester.test(quiet=False)
    return Outcome(tester, {}, origin, options)


def _save(outcome: Outcome, results: Results, skipped: int) -> None:
    """Write pictures and results.json. skipped: images that could not be read."""
    tester, options = outcome.tester, outcome.options
    draw(tester, results)
    if options.save_detections:
        tester.counted.write(results.folder / DETECTIONS)
    numbers = {
        **tester.scores,
        **outcome.numbers,
        "val_images": len(tester.scenes),
        "bad_images": skipped,
        "by_class": tester.counted.by_class(),
    }
    used = dataclasses.replace(options, checkpoint=results.options.source())
    path = results.save(numbers, used, origin=outcome.origin)
    log.info("detect: %s; %s", in_words(tester.scores), path)
