"""Conversion of images in any layout to one `.beton` file: parallel, resumable, reproducible.

The file's bytes depend only on the source, the options and the seed: not on the number of workers,
nor on how often the conversion was stopped or killed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import ArrayLike
from PIL import features

from fastimae.folders import write_text
from fastimae.loaders import native_library
from fastimae.loaders.beton.layout import ALLOCATION, end_of
from fastimae.loaders.beton.names import manifest_path
from fastimae.loaders.beton.sample import BetonSample
from fastimae.loaders.beton.trailer import MAGIC as TRAILER_MAGIC
from fastimae.loaders.beton.writer import BetonWriter, part_path
from fastimae.loaders.convert.encode import encode_item, open_as_asked
from fastimae.loaders.convert.journal import Journal, Progress
from fastimae.loaders.convert.options import ConvertOptions
from fastimae.loaders.convert.report import ConvertReport, format_bytes
from fastimae.loaders.convert.statistics import sampled_statistics
from fastimae.loaders.convert.verify import open_to_verify, verify_beton
from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import Source
from fastimae.loaders.images.band_files import first_form
from fastimae.loaders.images.pixel_form import RGB8, PixelForm
from fastimae.loaders.order.philox import KeyStream, derive_keys
from fastimae.loaders.sources.describe import data_line
from fastimae.loaders.sources.find import find_source
from fastimae.loaders.workers.safe_map import CRASHED, WorkersCannotStart, safe_map
from fastimae.locks import file_to_write
from fastimae.log import log
from fastimae.progress import Meter

__all__ = ["ConvertOptions", "ConvertReport", "convert"]

CHECKPOINT_SECONDS = 2.0
"""Most work, in seconds, that is lost when the conversion is killed."""
_CHUNK_BYTES = 2 << 20
"""Bytes of samples that a worker encodes at a time, roughly."""
_SAMPLED = 64
"""Images encoded beforehand to estimate the size of the file."""
_METADATA_BYTES, _TABLE_BYTES = 21, 2 * ALLOCATION.itemsize
"""Bytes per sample: in the pages of metadata before the first image, and after the last image."""
_WITHOUT_NATIVE = "without the native library damaged JPEG data may go unnoticed"


def convert(options: ConvertOptions) -> ConvertReport:
    """Write OUT, or check SRC if it is a `.beton` file and there is no OUT.

    To resume after an interruption, call it again with the same options.

    Raises:
        DataError: an option or the source is wrong, OUT exists, or the disk is full.
        FolderError: OUT cannot be written, or another conversion is writing it.
    """
    options.check()
    try:
        if options.out is None:
            return _verify_only(options)
        return _convert_to(options.out, options)
    except WorkersCannotStart as error:
        raise DataError(str(error)) from error
    except OSError as error:
        place = error.filename or options.out or options.src
        raise DataError(
            f"OUT: {place}: {error.strerror}; fix that, then the same command resumes"
        ) from error
    except KeyboardInterrupt:
        log.warning("stopped; the same command resumes from here")
        raise


def _verify_only(options: ConvertOptions) -> ConvertReport:
    if not options.verify:
        raise DataError("OUT is missing: name the file to write, or give --verify to check SRC")
    if options.labels is not None:
        raise DataError(f"--labels {options.labels} needs images to convert: name OUT as well")
    path = Path(options.src)
    with open_to_verify(path) as reader:
        samples, classes = len(reader), _classes(reader.labels)
        log.info(data_line(path, reader.kind, samples, reader.labels, reader.class_names))
    report = ConvertReport(path=path, samples=samples, class_count=classes, notes=_notes())
    report.verified = verify_beton(path, options.worker_count(), options.max_pixels)
    return report


def _convert_to(out: Path, options: ConvertOptions) -> ConvertReport:
    with file_to_write(out):
        if out.exists() and not options.overwrite:
            raise DataError(f"OUT: {out} exists; give another name, or --overwrite")
        return _convert_locked(out, options)


def _convert_locked(out: Path, options: ConvertOptions) -> ConvertReport:
    scratch = out.with_name(out.name + ".unpacked")
    try:
        source = find_source(options.src, scratch, options.labels)
        report = _convert_source(source, out, options)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if options.verify and report.samples:
        report.verified = verify_beton(out, options.worker_count(), options.max_pixels)
    return report


def _convert_source(source: Source, out: Path, options: ConvertOptions) -> ConvertReport:
    keys = derive_keys(options.seed, np.arange(len(source.items)), 0, KeyStream.FILE_ORDER)
    order = np.argsort(keys, kind="stable")[: options.limit].tolist()
    count = len(source.items)
    log.info(data_line(options.src, source.kind, count, source.labels, source.class_names))
    source.form = _form(source, options)
    for note in source.notes:
        log.info("%s", note)
    with closing(_open_journal(source, out, options)) as journal:
        try:
            chunk = _check_room(source, order[journal.progress.done :], out, options)
        except DataError:
            if not journal.progress.done:
                journal.remove()
            raise
        with BetonWriter(
            out,
            has_labels=source.labels is not None,
            page_size=options.page_size,
            capacity=len(order),
            rows=journal.progress.rows,
            class_names=source.class_names,
            form=source.form,
        ) as writer:
            _write_samples(writer, journal, source, order, chunk, options)
            report = _report(journal.progress, source, out, options)
            if source.form != RGB8:
                report.statistics = sampled_statistics(writer.part, writer.rows, source.form)
            manifest = json.dumps(_manifest(report, source, options), indent=1)
            write_text(manifest_path(out), manifest + "\n")
            if not report.samples:
                writer.discard()
        journal.remove()
    return report


def _form(source: Source, options: ConvertOptions) -> PixelForm:
    """Return what the pixels of the file consist of, as the first image shows it."""
    settings = options.encode_settings()
    form = first_form(partial(open_as_asked, settings=settings), source.items) or RGB8
    if form == RGB8:
        return form
    if options.reencode:
        raise DataError(f"--reencode has no effect on {form} pixels, which are kept: leave it out")
    log.info("%s pixels, as in the first image: they are stored as they are, like --mode raw", form)
    return form


def _report(
    progress: Progress, source: Source, out: Path, options: ConvertOptions
) -> ConvertReport:
    return ConvertReport(
        path=out,
        samples=len(progress.rows),
        class_count=_classes(progress.rows["label"]),
        source_samples=len(source.items) if options.limit else 0,
        source_classes=_classes([] if source.labels is None else source.labels),
        how=dict(progress.how),
        shrunk=dict(progress.shrunk),
        skipped=source.skipped + progress.skipped,
        depths=progress.depths,
        notes=_notes(),
    )


def _classes(labels: ArrayLike) -> int:
    """Count the classes among labels, which are negative for images without one."""
    numbers = np.asarray(labels, np.int64)
    return len(np.unique(numbers[numbers >= 0]))


def _open_journal(source: Source, out: Path, options: ConvertOptions) -> Journal:
    """Open the journal of this task; progress that the `.part` file does not back is discarded."""
    fingerprint = _fingerprint(source, options)
    journal = Journal(out.with_name(out.name + ".journal"), fingerprint)
    part = part_path(out)
    if journal.was_stale:
        log.warning("source or options changed since %s was started: starting over", part)
    elif not part.exists() or part.stat().st_size < end_of(journal.progress.rows):
        journal.restart(fingerprint)
    elif journal.progress.done:
        log.info("resuming after %d images", journal.progress.done)
    return journal


def _fingerprint(source: Source, options: ConvertOptions) -> str:
    """Identify the task: equal for tasks that make the same file."""
    digest = hashlib.blake2b(digest_size=16)
    task = (
        options.encode_settings(source.form),
        options.seed,
        options.limit,
        _versions(),
        TRAILER_MAGIC,
    )
    digest.update(repr(task).encode())
    digest.update(repr((source.labels, source.class_names)).encode())
    for item in source.items:
        digest.update(os.fsencode(f"{item.name}\n{item.offset} {item.size}\n"))
    return digest.hexdigest()


def _check_room(source: Source, order: list[int], out: Path, options: ConvertOptions) -> int:
    """Log the expected size, from a few images; return the number of images per chunk of work.

    Raises DataError if the disk has less room than that.
    """
    tried = list(_encoded(source, order[:_SAMPLED], 4, options))
    samples = [result for result in tried if not isinstance(result, str)]
    sizes = [len(sample.payload) + len(sample.trailer) for sample in samples]
    mean = sum(sizes) / max(1, len(sizes))
    pages_of_metadata = math.ceil(len(order) * _METADATA_BYTES / options.page_size)
    needed = pages_of_metadata * options.page_size + len(order) * (mean + _TABLE_BYTES)
    free = shutil.disk_usage(out.parent).free
    size = f"about {format_bytes(needed)} to write for {len(order)} images"
    room = f"{format_bytes(free)} free at {out.parent}"
    if needed > free:
        raise DataError(
            f"OUT: {out} does not fit: {size}, {room}; choose another disk, or make it smaller "
            f"with {', '.join(options.flags_to_shrink(source.form))}"
        )
    log.info("%s; %s", size, room)
    return int(min(256, max(1, _CHUNK_BYTES // max(1, mean))))


def _write_samples(
    writer: BetonWriter,
    journal: Journal,
    source: Source,
    order: list[int],
    chunk: int,
    options: ConvertOptions,
) -> None:
    """Append all remaining samples, and record the progress in the journal."""
    done = journal.progress.done
    results = _encoded(source, order[done:], chunk, options)
    meter = Meter(len(order), "convert", "img", done=done)
    stretch, saved = Progress(), time.monotonic()
    with meter, closing(results):
        for index, result in zip(order[done:], results, strict=True):
            if isinstance(result, str):
                stretch.skipped.append((source.items[index].name, result))
            else:
                label = source.labels[index] if source.labels is not None else -1
                writer.append(
                    result.payload,
                    height=result.height,
                    width=result.width,
                    mode=result.mode,
                    label=label,
                    trailer=result.trailer,
                )
                stretch.how[result.how] += 1
                if result.shrunk:
                    stretch.shrunk[result.shrunk] += 1
                if result.depth:
                    stretch.depths[result.depth] += 1
            stretch.done += 1
            meter.update()
            if time.monotonic() - saved >= CHECKPOINT_SECONDS:
                _checkpoint(writer, journal, stretch)
                stretch, saved = Progress(), time.monotonic()
    _checkpoint(writer, journal, stretch)


def _checkpoint(writer: BetonWriter, journal: Journal, stretch: Progress) -> None:
    writer.sync()
    stretch.rows = writer.rows[len(journal.progress.rows) :]
    journal.add(stretch)


def _encoded(
    source: Source, indices: list[int], chunk: int, options: ConvertOptions
) -> Generator[BetonSample | str, None, None]:
    """Yield the samples of these images in order, or the reason why there is none."""
    return safe_map(
        partial(encode_item, settings=options.encode_settings(source.form)),
        (source.items[index] for index in indices),
        workers=options.worker_count(),
        chunk=chunk,
        crashed=CRASHED,
    )


def _versions() -> dict[str, str]:
    """Return the versions that re-encoded bytes, trailers and the check for damage depend on."""
    library = native_library.load()
    native = "missing" if library is None else "row index" if library.own_entropy() else "built"
    return {
        "pillow": PIL.__version__,
        "libjpeg_turbo": str(features.version("libjpeg_turbo")),
        "native_library": native,
    }


def _notes() -> list[str]:
    return [_WITHOUT_NATIVE] if native_library.load() is None else []


def _manifest(report: ConvertReport, source: Source, options: ConvertOptions) -> dict[str, Any]:
    """Collect the content of the JSON file beside OUT."""
    asked = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(options).items()
        if name != "workers"
    }
    return {
        "source": source.kind,
        "notes": source.notes,
        "options": asked,
        "versions": _versions(),
        "samples": report.samples,
        "passed_through": report.passed_through,
        "mended": report.repaired,
        "encoded": report.encoded,
        "shrunk": report.shrunk,
        "depths": report.depths,
        "pixels": str(source.form),
        "statistics": report.statistics and report.statistics._asdict(),
        "class_names": source.class_names,
        "skipped": [{"name": name, "reason": reason} for name, reason in report.skipped],
    }
