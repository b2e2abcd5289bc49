"""Figures on a dark page: dark where they were white, with photographs as they are."""

import io

import numpy as np
import pytest
import torch
from html_page import Page, write_png
from PIL import Image

from fastimae.evaluate.pages.dark_pictures import CARD, INK, dark_layer, darkened
from fastimae.evaluate.pages.page import Section, render
from fastimae.pictures.picture_table import draw_picture_table
from fastimae.pictures.plots import plain_style, plt, save_figure

PHOTOGRAPH = torch.tensor([[[250, 250, 250], [10, 10, 10]], [[200, 0, 0], [0, 0, 200]]]).byte()


def layer_of(path):
    return np.asarray(Image.open(io.BytesIO(dark_layer(path))).convert("RGBA"))


def test_photographs_are_left_and_the_rest_is_dark(tmp_path):
    path = tmp_path / "table.png"
    draw_picture_table([("row", [PHOTOGRAPH, None, PHOTOGRAPH])], ["a", "b", "c"], path, "a note")
    light, dark = np.asarray(Image.open(path).convert("RGB")), layer_of(path)
    assert light.shape[:2] == dark.shape[:2]
    photographs = dark[..., 3] == 0
    assert np.array_equal(np.unique(dark[..., 3]), [0, 255])
    # All pixels of photographs show through, and hardly any of the white around them.
    colored = np.ptp(light.astype(int), axis=-1) > 100
    assert photographs[colored].all()
    assert (light[photographs] == 255).all(-1).mean() < 0.01
    assert tuple(dark[0, 0]) == (*CARD, 255)


def test_charts_have_light_text_on_dark(tmp_path):
    path = tmp_path / "chart.png"
    with plain_style():
        figure, axis = plt.subplots(layout="constrained")
        axis.plot([1, 2], color="tab:blue")
        axis.set_xlabel("x")
        save_figure(figure, path)
    dark = layer_of(path)
    assert (dark[..., 3] == 255).all() and tuple(dark[0, 0, :3]) == CARD
    assert dark[..., :3].mean() < 60 and (dark[..., :3].min(-1) > 200).sum() > 100


@pytest.mark.parametrize("color", [(31, 119, 180), (255, 127, 14), (68, 1, 84), (253, 231, 37)])
def test_colours_keep_their_hue_and_stand_out(color):
    (((red, green, blue),),) = darkened(np.float32([[color]])).astype(int)
    assert np.argsort((red, green, blue)).tolist() == np.argsort(color).tolist()
    assert max(red, green, blue) > 120


def test_white_and_black_become_the_colours_of_the_page():
    extremes = np.float32([[[255, 255, 255], [0, 0, 0]]])
    assert darkened(extremes)[0].tolist() == [list(CARD), list(INK)]
    page = render("title", "", [])
    for name, color in (("card", CARD), ("ink", INK)):
        assert f"--{name}: #{bytes(color).hex()}" in page.split("prefers-color-scheme: dark")[1]


def test_a_page_has_both_versions_of_our_figures_and_one_of_others(tmp_path):
    draw_picture_table([("", [PHOTOGRAPH])], ["a"], tmp_path / "ours.png")
    write_png(tmp_path / "theirs.png", 0)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    files = [tmp_path / name for name in ("ours.png", "theirs.png", "broken.png")]
    page = Page(render("title", "", [Section(title="Pictures", pictures=files)]))
    images = [values for tag, values in page.tags if tag == "img"]
    assert [image.get("class") for image in images] == [None, "dark", None, None]
    # A dark layer has no text of its own: it is read out once.
    assert [image["alt"] for image in images] == [
        "Pictures: ours", "", "Pictures: theirs", "Pictures: broken"
    ]  # fmt: skip
    assert images[0]["width"] == images[1]["width"] and "width" not in images[3]
