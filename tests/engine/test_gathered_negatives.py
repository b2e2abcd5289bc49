"""Several processes contrast the images of all of them, as one process with the joined batch."""

import pytest
import torch


def results(ranks, size):
    name = f"contrast-{size}"
    assert set(ranks.report[name]["codes"]) == {0}, ranks.output(name, 0)
    return torch.load(ranks.folder / f"{name}.pt")


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("case", ["infonce", "byol", "dropped"])
def test_any_number_of_processes_gives_the_same_loss_and_gradients(averaging_ranks, case, size):
    alone, several = (results(averaging_ranks, n)[case] for n in (1, size))
    assert alone.keys() == several.keys() and "student.cls_token" in alone
    for name, value in alone.items():
        torch.testing.assert_close(several[name], value, rtol=1e-4, atol=1e-7, msg=name)
    # A third of the 12 images alone has a loss of about log 4 = 1.4.
    assert case == "byol" or alone["loss"] > 2
