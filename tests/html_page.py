"""Reads the HTML pages that report and compare write, and makes the pictures that go into them."""

from collections import defaultdict
from html.parser import HTMLParser

import numpy as np
from PIL import Image

VOID = ("meta", "img", "br")


def write_png(path, seed):
    """Write a small picture of noise, as another program would."""
    pixels = np.random.default_rng(seed).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


class Page(HTMLParser):
    """Collects what a test asks for; fails on tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.links, self.ids = [], [], [], []
        self.tags, self.words, self.rows = [], [], 0
        self.texts = defaultdict(list)
        """The texts directly in each kind of element."""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        assert len(values) == len(attributes), f"<{tag}> has an attribute twice"
        self.tags.append((tag, values))
        self.rows += tag == "tr"
        if tag == "img":
            self.images.append(values["src"])
        self.links += [values[name] for name in ("href", "src") if name in values]
        if "id" in values:
            self.ids.append(values["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)
            self.texts[self.open[-1]].append(data)

    @property
    def text(self):
        """All that can be read, with single spaces."""
        return " ".join(" ".join(self.words).split())
