"""The command line that trains the tiny model's autoencoder."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderDC

from unireal.training import autoencoder
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


def test_an_interruption_is_told(tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(autoencoder, "draw_frame", interrupted)
    assert main(["--output", str(tmp_path / "vae"), "--steps", "1"]) == 130
    assert capsys.readouterr().err == (
        "error: interrupted; nothing was saved, as an autoencoder is only at its last step\n"
    )


@pytest.mark.parametrize("steps", [1, 20])
@torch.no_grad()
def test_few_steps_make_an_autoencoder(tmp_path, monkeypatch, steps):
    """Its latents have unit variance, and what it restores is what it was before they were scaled."""

    def watched(vae, images):
        seen.extend([images, vae.decode(vae.encode(images).latent).sample])
        scale(vae, images)

    seen, scale = [], autoencoder.scale_latents
    monkeypatch.setattr(autoencoder, "scale_latents", watched)
    with torch.enable_grad():
        assert main(["--output", str(tmp_path / "vae"), "--steps", str(steps), "--batch-size", "1"]) == 0
    vae, (images, restored) = AutoencoderDC.from_pretrained(tmp_path / "vae"), seen
    latent = vae.encode(images).latent
    torch.testing.assert_close(latent.std(dim=(0, 2, 3)), torch.ones(32), atol=1e-3, rtol=0)
    torch.testing.assert_close(vae.decode(latent).sample, restored, atol=1e-3, rtol=1e-3)
