"""TensorBoard and log.txt: the same values, pictures over time, and settings, each once."""

import io

import pytest
from PIL import Image
from reports import board_of, log_of
from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG, SESSION_START_INFO_TAG
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from toy_trainer import trainer

from fastimae.engine.run_file import RunFile, read_run_file


def test_tensorboard_has_pictures_settings_and_the_logs_values_once(tmp_path, train):
    train("--epochs", "1")
    train("--epochs", "1", "--resume", "auto")  # finished already
    train("--epochs", "3", "--resume", "auto")
    board = board_of(tmp_path)
    assert [event.step for event in board.Images("reconstruction")] == [1000, 2000, 3000]
    first = board.Images("reconstruction")[0]
    assert Image.open(io.BytesIO(first.encoded_image_string)).size == (1, 1)
    assert (first.width, first.height) == (1, 1)
    first_steps = [100, 1100]  # of each start that trained
    read = sorted([*range(500, 3001, 500), *first_steps])
    assert [event.step for event in board.Scalars("train_loss")] == read
    for name in ("train_loss", "train_lr", "bad_samples"):
        expected = [
            (1000 * (line["epoch"] + 1), pytest.approx(line[name])) for line in log_of(tmp_path)
        ]
        assert [(e.step, e.value) for e in board.Scalars(f"epoch/{name}")] == expected
    (settings, changed) = board.Tensors("settings/text_summary")
    text = settings.tensor_proto.string_val[0].decode()
    assert "batch_size: 4\n" in text and "epochs: 1\n" in text and "starts" not in text
    assert (settings.step, changed.step) == (0, 1000)


def test_tensorboards_hparams_compare_runs_by_what_makes_them(tmp_path, train):
    train("--epochs", "1")
    tags = board_of(tmp_path).summary_metadata
    started = HParamsPluginData.FromString(tags[SESSION_START_INFO_TAG].plugin_data.content)
    found = started.session_start_info.hparams
    assert found["lr"].number_value == 1e-2 and found["objective"].string_value == "imae"
    assert found["input_size"].string_value == "[32]" and "output_dir" not in found
    ended = HParamsPluginData.FromString(tags[SESSION_END_INFO_TAG].plugin_data.content)
    assert ended.session_end_info.status == 1  # STATUS_SUCCESS


def test_a_run_that_stops_has_no_end_in_hparams(tmp_path):
    run = trainer(tmp_path)
    run.throttle.wait = run._ask_to_stop
    assert not run.run()
    assert SESSION_END_INFO_TAG not in board_of(tmp_path).summary_metadata


def test_a_resume_repeats_no_settings(tmp_path):
    for epochs in (3, 3):
        run = trainer(tmp_path, epochs=epochs)
        run.run_file = RunFile(tmp_path, {"epochs": 3, "resume": "auto"})
        run.epoch = len(list(tmp_path.glob("log.txt")))
        run.run()
    assert len(read_run_file(tmp_path)["starts"]) == 2
    (settings,) = board_of(tmp_path).Tensors("settings/text_summary")
    assert settings.step == 0
