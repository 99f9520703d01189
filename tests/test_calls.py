"""Calls of the pipeline that are easy to get wrong: batches of videos, callbacks that change things, tiny pictures."""

from __future__ import annotations

from itertools import cycle

import numpy as np
import pytest
import torch

FRAMES = [np.full((8, 8, 3), 20 * i, np.uint8) for i in range(7)]  # of two windows


def _seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _videos(pipeline, prompt="Make it red.", **options):
    given = {"task": "video_edit", "video": FRAMES, "output_type": "np"}
    return pipeline(prompt, **given | options).results


def test_every_video_of_a_batch_has_its_generator(tiny_pipeline):
    pair = _videos(tiny_pipeline, ["red", "red"], generator=_seeded(3, 4))
    (second,) = _videos(tiny_pipeline, "red", generator=_seeded(4))
    assert np.array_equal(pair[1], second) and not np.array_equal(pair[0], second)
    with pytest.raises(ValueError, match="1 generators were given for 2 videos"):
        _videos(tiny_pipeline, ["red", "blue"], generator=_seeded(3))


def test_frames_that_come_once_serve_all_prompts(tiny_pipeline):
    first, second = _videos(tiny_pipeline, ["red", "blue"], video=iter(FRAMES))
    assert len(first) == len(second) == len(FRAMES)
    first, second = _videos(tiny_pipeline, ["red", "blue"], video=cycle(FRAMES), num_frames=5)
    assert len(first) == len(second) == 5


def test_an_ended_call_makes_no_more_windows(tiny_pipeline):
    """Nor the videos of the prompts that follow."""
    seen = []

    def after_step(pipe, step, t, values):
        seen.append(step)
        pipe.interrupt = step == 1
        return {}

    options = {"num_inference_steps": 4, "callback_on_step_end": after_step}
    (frames,) = _videos(tiny_pipeline, ["red", "blue"], **options)
    assert seen == [0, 1] and len(frames) == 4  # the frames of the first window
    seen.clear()
    (frames,) = _videos(tiny_pipeline, task="t2v", video=None, num_frames=16, num_results=4, size=(8, 8), **options)
    assert seen == [0, 1] and len(frames) == 4
    assert len(_videos(tiny_pipeline)[0]) == len(FRAMES)  # the next call is not ended


def test_latents_of_a_callback_are_checked(tiny_pipeline):
    def returning(change):
        return lambda pipe, step, t, values: {"latents": change(values["latents"][0])}

    def edit(change):
        return tiny_pipeline("red", canvas=FRAMES[2], callback_on_step_end=returning(change), output_type="np").images

    zeros = torch.zeros(1, 3, 8, 8)
    assert (edit(lambda latent: zeros)[0] == edit(lambda latent: [zeros.half()])[0]).all()
    with pytest.raises(ValueError, match=r"latents of shapes \[\(1, 3, 4, 8\)\] were given; this call needs"):
        edit(lambda latent: latent[:, :, :4])


def test_no_prompts_at_all(tiny_pipeline):
    for options in ({"canvas": FRAMES[0]}, {"task": "video_edit", "video": FRAMES}):
        with pytest.raises(ValueError, match="list of prompts is empty"):
            tiny_pipeline([], **options)


@pytest.mark.parametrize("accelerate", [(), ("spotedit:paste=True", "condition_cache", "teacache")])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 20), (9, 7)])
def test_pictures_smaller_than_a_token(tiny_pipeline, height, width, accelerate):
    canvas = np.full((height, width, 3), 90, np.uint8)
    given = {"num_inference_steps": 4, "guidance_scale": 2.0, "accelerate": accelerate, "output_type": "np"}
    assert tiny_pipeline("Make it red.", canvas=canvas, **given).images[0].shape == (height, width, 3)
    mask = np.full((height, width, 3), 255, np.uint8)
    assert tiny_pipeline(task="inpaint", canvas=canvas, mask=mask, **given).images[0].shape == (height, width, 3)
