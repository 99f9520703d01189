"""The command line that trains the tiny model's autoencoder."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderDC
from processes import forget_accelerate
from safetensors import SafetensorError
from safetensors.torch import load_file

from unireal.training import autoencoder
from unireal.training.autoencoder import Run, main

WEIGHTS = "diffusion_pytorch_model.safetensors"


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


def start(output, *arguments) -> int:
    forget_accelerate()
    return main(["--output", str(output), "--steps", "5", "--batch-size", "1", "--checkpoint-every", "2", *arguments])


@pytest.fixture
def watched(monkeypatch):
    """The losses of all steps, by their numbers. stop: after which one to press Ctrl-C."""

    def step(self):
        if self.step == seen.stop:
            raise KeyboardInterrupt
        seen.losses.append((self.step, train_step(self)))
        return seen.losses[-1][1]

    seen, train_step = SimpleNamespace(losses=[], stop=None), Run._train_step
    monkeypatch.setattr(Run, "_train_step", step)
    return seen


def test_a_run_that_was_interrupted_goes_on_exactly(tmp_path, capsys, watched):
    assert start(tmp_path / "whole") == 0
    expected, watched.losses[:] = list(watched.losses), []
    watched.stop = 3
    assert start(tmp_path / "vae") == 130
    checkpoint = tmp_path / "vae/checkpoints/step-0000002"
    assert capsys.readouterr().err.endswith(f"error: interrupted; {checkpoint} is whole; --resume\n")
    assert sorted(path.name for path in (tmp_path / "vae").iterdir()) == ["checkpoints"]
    watched.stop = None
    assert start(tmp_path / "vae", "--resume") == 0
    assert watched.losses == expected[:3] + expected[2:]
    whole, resumed = (load_file(tmp_path / run / WEIGHTS) for run in ("whole", "vae"))
    assert all((whole[name] == resumed[name]).all() for name in whole)
    assert "3 steps in" in capsys.readouterr().out


def test_an_interruption_before_the_first_checkpoint_is_told(tmp_path, capsys, watched):
    watched.stop = 0
    assert start(tmp_path / "vae") == 130
    assert capsys.readouterr().err.endswith("error: interrupted; no checkpoint was saved yet\n")


def test_a_folder_in_use_is_refused(tmp_path, capsys, watched):
    """Also one of an autoencoder without checkpoints, and a resumption with other options or of nothing."""
    vae, old = tmp_path / "vae", tmp_path / "old"
    assert start(vae) == 0
    old.mkdir()
    (old / "config.json").write_text("{}")
    (tmp_path / "run/checkpoints/step-0000001").mkdir(parents=True)
    (tmp_path / "run/checkpoints/step-0000001/state.json").write_text("{}")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for arguments, message in (
        ((vae,), f"{vae} holds an earlier run; add --resume or give another --output"),
        ((old,), f"{old} holds an autoencoder; give another --output"),
        ((old, "--resume"), f"no checkpoint in {old / 'checkpoints'}; start without --resume"),
        ((vae, "--resume", "--seed", "1"), "step-0000005 has --seed 0, not 1; resume with the options of the run"),
        ((tmp_path / "run", "--resume"), "step-0000001 is not an autoencoder's; resume with"),
    ):
        capsys.readouterr()
        assert start(*arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_no_room_for_the_autoencoder_keeps_the_checkpoint(tmp_path, capsys, monkeypatch):
    def full(self, folder, **_):
        folder.mkdir()
        (folder / "config.json").touch()
        raise SafetensorError("I/O error: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(AutoencoderDC, "save_pretrained", full)
        assert start(tmp_path / "vae") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: cannot write to {tmp_path / 'vae'} (I/O error: No space left on device); ")
    assert error.endswith("step-0000005 is whole; make room and --resume")
    assert sorted(path.name for path in (tmp_path / "vae").iterdir()) == ["checkpoints"]
    assert start(tmp_path / "vae", "--resume") == 0
    AutoencoderDC.from_pretrained(tmp_path / "vae")


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, capsys):
    assert start(tmp_path / "vae", "--learning-rate", "1e30") == 1
    assert "the loss is nan at step" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "vae/config.json").exists()


@pytest.mark.parametrize("steps", [1, 20])
@torch.no_grad()
def test_few_steps_make_an_autoencoder(tmp_path, monkeypatch, steps):
    """Its latents have unit variance, and what it restores is what it was before they were scaled."""

    def watched(vae, images):
        seen.extend([images, vae.decode(vae.encode(images).latent).sample])
        scale(vae, images)

    seen, scale = [], autoencoder.scale_latents
    monkeypatch.setattr(autoencoder, "scale_latents", watched)
    forget_accelerate()
    with torch.enable_grad():
        assert main(["--output", str(tmp_path / "vae"), "--steps", str(steps), "--batch-size", "1"]) == 0
    vae, (images, restored) = AutoencoderDC.from_pretrained(tmp_path / "vae"), seen
    latent = vae.encode(images).latent
    torch.testing.assert_close(latent.std(dim=(0, 2, 3)), torch.ones(32), atol=1e-3, rtol=0)
    torch.testing.assert_close(vae.decode(latent).sample, restored, atol=1e-3, rtol=1e-3)
