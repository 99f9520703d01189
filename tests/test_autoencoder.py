"""The command line that trains the tiny model's autoencoder."""

from __future__ import annotations

import pytest
from diffusers import AutoencoderDC

from unireal.training.autoencoder import main


@pytest.mark.parametrize(
    ("option", "value"),
    [("steps", "0"), ("batch-size", "1.5"), ("learning-rate", "nan"), ("learning-rate", "x"), ("seed", "-1")],
)
def test_bad_values_are_told_in_one_line(tmp_path, capsys, option, value):
    with pytest.raises(SystemExit) as stop:
        main(["--output", str(tmp_path / "vae"), f"--{option}", value])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and not (tmp_path / "vae").exists()
    assert error.startswith(f"error: argument --{option}: '{value}' is not") and error.count("\n") == 1


def test_an_output_that_is_a_file_is_told(tmp_path, capsys):
    (tmp_path / "vae").touch()
    assert main(["--output", str(tmp_path / "vae")]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "vae") in error and error.count("\n") == 1


@pytest.mark.parametrize("steps", [1, 20])
def test_few_steps_make_an_autoencoder(tmp_path, steps):
    assert main(["--output", str(tmp_path / "vae"), "--steps", str(steps), "--batch-size", "1"]) == 0
    assert AutoencoderDC.from_pretrained(tmp_path / "vae").config.latent_channels == 32
