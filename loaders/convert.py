"""Converts images in any layout to one `.beton` file: parallel, resumable, reproducible.

The file's bytes depend on the source, the options and the seed alone, not on the number of
workers, nor on how often the conversion was stopped or killed on the way.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import features
from tqdm import tqdm

from fastimae.folders import write_text
from fastimae.loaders import native_library
from fastimae.loaders.beton_format import ALLOCATION, end_of
from fastimae.loaders.beton_names import manifest_path
from fastimae.loaders.beton_writer import BetonWriter, part_path
from fastimae.loaders.convert_options import ConvertOptions
from fastimae.loaders.describe import describe
from fastimae.loaders.encode import Encoded, encode_item
from fastimae.loaders.errors import DataError
from fastimae.loaders.items import Source
from fastimae.loaders.journal import Journal, Progress
from fastimae.loaders.philox import derive_keys
from fastimae.loaders.report import ConvertReport, format_bytes
from fastimae.loaders.safe_map import CRASHED, WorkersCannotStart, safe_map
from fastimae.loaders.sources import find_source
from fastimae.loaders.trailer import MAGIC as TRAILER_MAGIC
from fastimae.loaders.verify import open_to_verify, verify_beton
from fastimae.locks import file_to_write
from fastimae.log import log

__all__ = ["ConvertOptions", "ConvertReport", "convert"]

CHECKPOINT_SECONDS = 2.0
"""At most so much work is lost when the conversion is killed."""
_SHUFFLE_STREAM = 4
"""Keeps the order in the file apart from what training draws from the same seed."""
_CHUNK_BYTES = 2 << 20
_SAMPLED = 64
_METADATA_BYTES, _TABLE_BYTES = 21, 2 * ALLOCATION.itemsize
"""Of each sample: in the whole pages before the first image, and behind the last."""
_WITHOUT_NATIVE = "without the native library damaged JPEG data may go unnoticed"


def convert(options: ConvertOptions) -> ConvertReport:
    """Write OUT, or check SRC if it is a `.beton` file and there is no OUT.

    To go on after an interruption, call it again with the same options.

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
            f"OUT: {place}: {error.strerror}; once that is solved, the same command goes on"
        ) from error
    except KeyboardInterrupt:
        log.warning("stopped; the same command goes on from here")
        raise


def _verify_only(options: ConvertOptions) -> ConvertReport:
    if not options.verify:
        raise DataError("OUT is missing: name the file to write, or give --verify to check SRC")
    if options.labels is not None:
        raise DataError(f"--labels {options.labels} needs images to convert: name OUT, too")
    path = Path(options.src)
    with open_to_verify(path) as reader:
        samples, classes = len(reader), len(np.unique(reader.labels[reader.labels >= 0]))
        log.info("%s: %s: %s", path, reader.kind,
                 describe(samples, reader.labels, reader.class_names))  # fmt: skip
    report = ConvertReport(path=path, samples=samples, class_count=classes, notes=_notes())
    report.verified = verify_beton(path, options.worker_count(), options.max_pixels)
    return report


def _convert_to(out: Path, options: ConvertOptions) -> ConvertReport:
    with file_to_write(out):
        if out.exists() and not options.overwrite:
            raise DataError(f"OUT: {out} exists; give another name, or --overwrite")
        return _convert_alone(out, options)


def _convert_alone(out: Path, options: ConvertOptions) -> ConvertReport:
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
    keys = derive_keys(options.seed, np.arange(len(source.items)), 0, _SHUFFLE_STREAM)
    order = np.argsort(keys, kind="stable")[: options.limit].tolist()
    what = describe(len(source.items), source.labels, source.class_names)
    log.info("%s: %s: %s", options.src, source.kind, what)
    for note in source.notes:
        log.info("%s", note)
    with closing(_open_journal(source, out, options)) as journal:
        chunk = _announce_size(source, order[journal.progress.done :], out, options)
        with BetonWriter(
            out,
            has_labels=source.labels is not None,
            page_size=options.page_size,
            capacity=len(order),
            rows=journal.progress.rows,
            class_names=source.class_names,
        ) as writer:
            _write_samples(writer, journal, source, order, chunk, options)
            progress = journal.progress
            report = ConvertReport(
                path=out,
                samples=len(progress.rows),
                class_count=len(set(progress.rows["label"].tolist()) - {-1}),
                how=dict(progress.how),
                shrunk=dict(progress.shrunk),
                skipped=source.skipped + progress.skipped,
                depths=progress.depths,
                notes=_notes(),
            )
            manifest = json.dumps(_manifest(report, source, options), indent=1)
            write_text(manifest_path(out), manifest + "\n")
            if not report.samples:
                writer.discard()
        journal.remove()
    return report


def _open_journal(source: Source, out: Path, options: ConvertOptions) -> Journal:
    """The journal of this very task, its progress backed by the `.part` file."""
    fingerprint = _fingerprint(source, options)
    journal = Journal(out.with_name(out.name + ".journal"), fingerprint)
    part = part_path(out)
    if journal.was_stale:
        log.warning("source or options changed since %s was begun: starting anew", part)
    elif not part.exists() or part.stat().st_size < end_of(journal.progress.rows):
        journal.restart(fingerprint)
    elif journal.progress.done:
        log.info("going on after %d images", journal.progress.done)
    return journal


def _fingerprint(source: Source, options: ConvertOptions) -> str:
    """Equal for tasks that make the same file."""
    digest = hashlib.blake2b(digest_size=16)
    task = options.encode_settings(), options.seed, options.limit, _versions(), TRAILER_MAGIC
    digest.update(repr(task).encode())
    digest.update(repr((source.labels, source.class_names)).encode())
    for item in source.items:
        digest.update(os.fsencode(f"{item.name}\n{item.offset} {item.size}\n"))
    return digest.hexdigest()


def _announce_size(source: Source, order: list[int], out: Path, options: ConvertOptions) -> int:
    """Log the size to expect, from a few images; returns how many make a handy chunk of work."""
    tried = list(_encoded(source, order[:_SAMPLED], 4, options))
    samples = [result for result in tried if not isinstance(result, str)]
    sizes = [len(sample.payload) + len(sample.trailer) for sample in samples]
    mean = sum(sizes) / max(1, len(sizes))
    pages_of_metadata = math.ceil(len(order) * _METADATA_BYTES / options.page_size)
    needed = pages_of_metadata * options.page_size + len(order) * (mean + _TABLE_BYTES)
    free = shutil.disk_usage(out.parent).free
    log.info(
        "about %s to write for %d images; %s free at %s",
        format_bytes(needed),
        len(order),
        format_bytes(free),
        out.parent,
    )
    if needed > free:
        log.warning("that does not fit: --max_resolution, --reencode or --limit make it smaller")
    return int(min(256, max(1, _CHUNK_BYTES // max(1, mean))))


def _write_samples(
    writer: BetonWriter,
    journal: Journal,
    source: Source,
    order: list[int],
    chunk: int,
    options: ConvertOptions,
) -> None:
    """Append all samples that are still to do, noting in the journal how far it came."""
    done = journal.progress.done
    results = _encoded(source, order[done:], chunk, options)
    # A bar that cannot be redrawn, as in a log file, is printed anew each time.
    interval = 0.5 if sys.stderr.isatty() else 30
    bar = tqdm(total=len(order), initial=done, desc="convert", unit="img", mininterval=interval)
    stretch, saved = Progress(), time.monotonic()
    with bar, closing(results):
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
            bar.update()
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
) -> Generator[Encoded | str, None, None]:
    """The samples of these images, or the reasons why there is none, in order."""
    return safe_map(
        partial(encode_item, settings=options.encode_settings()),
        (source.items[index] for index in indices),
        workers=options.worker_count(),
        chunk=chunk,
        crashed=CRASHED,
    )


def _versions() -> dict[str, str]:
    """What re-encoded bytes, trailers and the choice of sound images depend on."""
    library = native_library.load()
    found = "missing" if library is None else "row index" if library.own_entropy() else "built"
    return {
        "pillow": PIL.__version__,
        "libjpeg_turbo": str(features.version("libjpeg_turbo")),
        "native_library": found,
    }


def _notes() -> list[str]:
    return [_WITHOUT_NATIVE] if native_library.load() is None else []


def _manifest(report: ConvertReport, source: Source, options: ConvertOptions) -> dict[str, Any]:
    """All that is known about the file, for the JSON file beside it."""
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
        "mended": report.mended,
        "encoded": report.encoded,
        "shrunk": report.shrunk,
        "depths": report.depths,
        "class_names": source.class_names,
        "skipped": [{"name": name, "reason": reason} for name, reason in report.skipped],
    }
