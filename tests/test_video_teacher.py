"""Learning edits from a frozen video model: the losses, what it reads, and whole runs at the debug size."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import debug_components, quiet_pipeline
from diffusers import AutoencoderDC
from processes import forget_accelerate
from safetensors.torch import load_file
from test_video_prior import cogvideox, converted  # noqa: F401  # fixtures

from data_builders.world.evolution import EvolvingPool
from data_builders.world.recipes import world_sample
from data_builders.world.stream import WorldPool
from unireal.data.mixture import Mixture
from unireal.data.sources import Source
from unireal.diffusion.flow import add_noise
from unireal.experiments import EXPERIMENTS, OptimizerConfig, VideoTeacher
from unireal.model.build import Components
from unireal.training.cli import main
from unireal.training.distillation import make_objective
from unireal.training.objective import Objective, Step, prepare_step
from unireal.training.start import Start, vocabulary
from unireal.training.trainer import Trainer
from unireal.training.video_teacher import Taught, captions
from unireal.transforms import collate

pytestmark = pytest.mark.usefixtures("small_training")
EDITS = Source("data_builders.world.stream:WorldStream", options={"recipes": ("recolor",), "sizes": ((16, 16),)})
SETTINGS = VideoTeacher("there is one")
NOTHING = 1e-12  # T5 rounds differently with and without gradients


def make_step(parts: Components, recipe: str = "recolor", captioned: bool = False, **changes) -> Step:
    samples = [replace(world_sample(recipe, seed, (16, 16)), **changes) for seed in range(3)]
    if captioned:
        samples = [replace(s, source=s.source | {"evolution": "the circle of the red hole"}) for s in samples]
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    return prepare_step(collate(samples), parts, torch.tensor([0.2, 0.5, 0.9]), generators, changed_weight=5.0)


def frozen(parts: Components) -> Components:
    parts.transformer.requires_grad_(False)
    parts.text_encoder.requires_grad_(False)
    return parts


@pytest.fixture
def pair() -> tuple[Components, Components]:
    """A student, and its teacher, which knows as much."""
    return debug_components(), frozen(debug_components())


# The losses


def added(objective: Taught, step: Step) -> dict[str, torch.Tensor]:
    objective(step)
    return objective.added


@pytest.mark.parametrize("kind", ["sample", "velocity"])
def test_a_student_that_equals_its_teacher_pays_nothing(kind):
    student, teacher = debug_components(prediction_type=kind), frozen(debug_components(prediction_type=kind))
    objective, step = Taught(student, teacher, SETTINGS), make_step(student)
    assert torch.equal(objective(step), Objective(student)(step))
    assert set(objective.added) == {"teacher/blocks", "teacher/tail"}
    assert all(loss.shape == (3,) and loss.max() < NOTHING for loss in objective.added.values())
    other = added(objective, make_step(student, captioned=True))  # the teacher reads something else
    assert all(loss.min() > 1e6 * NOTHING for loss in other.values())


def test_the_losses_by_hand(pair):
    student, teacher = pair
    with torch.no_grad():
        student.transformer.proj_out.bias += 0.5
    step = make_step(student)
    found = added(Taught(student, teacher, SETTINGS), step)
    assert found["teacher/blocks"].max() < NOTHING  # the blocks are still the teacher's
    torch.testing.assert_close(found["teacher/tail"], torch.full((3,), 0.25))

    with torch.no_grad():
        student.transformer.transformer_blocks[1].ff.net[2].bias += 1.0
    step, outputs = make_step(student), {}
    for name, parts in (("student", student), ("teacher", teacher)):
        block = parts.transformer.transformer_blocks[1]
        hook = block.register_forward_hook(lambda _, __, out, name=name: outputs.update({name: out[:, -4:].detach()}))
        text = parts.text(step.batch.prompts)
        noisy = [add_noise(x, e, step.t) for x, e in zip(step.clean, step.noise, strict=True)]
        parts.transformer(noisy, step.t, text.features, step.condition, step.roles, text.mask, text.referring)
        hook.remove()
    distance = (outputs["student"] - outputs["teacher"]).square().sum((1, 2)) / outputs["teacher"].square().sum((1, 2))
    everything, first, last = (
        added(Taught(student, teacher, replace(SETTINGS, layers=layers)), step)["teacher/blocks"]
        for layers in ((), (0,), (-1,))
    )
    torch.testing.assert_close(last, distance)
    torch.testing.assert_close(everything, distance / 2)
    assert first.max() < NOTHING and last.min() > 1e-3


def test_the_weights_are_of_the_two_losses(pair):
    student, teacher = pair
    step, plain = make_step(student, captioned=True), Objective(student)
    shares = added(Taught(student, teacher, SETTINGS), step)
    for blocks, tail in ((2.0, 0.0), (0.0, 3.0), (0.5, 4.0)):
        losses = Taught(student, teacher, replace(SETTINGS, blocks=blocks, tail=tail))(step)
        expected = plain(step) + blocks * shares["teacher/blocks"] + tail * shares["teacher/tail"]
        torch.testing.assert_close(losses, expected)


def test_recomputed_blocks_have_the_same_gradients(pair):
    student, teacher = pair
    step = make_step(student, captioned=True)

    def gradients():
        student.transformer.zero_grad()
        Taught(student, teacher, SETTINGS)(step).mean().backward()
        return {n: p.grad.clone() for n, p in student.transformer.named_parameters() if p.grad is not None}

    kept = gradients()
    student.transformer.enable_gradient_checkpointing()
    again = gradients()
    assert kept.keys() == again.keys() and all(torch.equal(kept[name], again[name]) for name in kept)


def test_the_student_comes_closer_and_the_teacher_stays(pair):
    _, teacher = pair
    student = debug_components(seed=1)
    before = [p.clone() for part in (teacher.transformer, teacher.text_encoder) for p in part.parameters()]
    objective, step = Taught(student, teacher, SETTINGS), make_step(student, captioned=True)
    names = [name for name, _ in objective.named_parameters()]
    assert names == [name for name, _ in Objective(student).named_parameters()]
    first = {name: loss.mean() for name, loss in added(objective, step).items()}
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        objective(step).mean().backward()
        optimizer.step()
    last = {name: loss.mean() for name, loss in added(objective, step).items()}
    assert all(last[name] < 0.5 * first[name] for name in first), (first, last)
    after = [p for part in (teacher.transformer, teacher.text_encoder) for p in part.parameters()]
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, after, strict=True))


# What the teacher has a say in, and what it reads


def test_it_has_no_say_in_other_tasks_and_without_a_source(pair):
    student, teacher = pair
    for step in (make_step(student, "t2i"), make_step(student, "deblur"), make_step(student, inputs=())):
        objective = Taught(student, teacher, SETTINGS)
        assert torch.equal(objective(step), Objective(student)(step)) and not objective.added
    mixed = make_step(student, captioned=True)
    mixed.batch.tasks[1] = "restore"
    losses, plain = Taught(student, teacher, SETTINGS)(mixed), Objective(student)(mixed)
    assert (losses > plain).tolist() == [True, False, True] and losses[1] == plain[1]


def test_it_reads_the_evolution_unless_the_text_was_dropped():
    samples = [world_sample("move", seed, (16, 16)) for seed in range(3)]
    told = replace(samples[0], source=samples[0].source | {"evolution": "it moves", "caption": "a circle"})
    dropped = replace(told, instruction="", context="")
    plain = replace(samples[2], source={})
    batch = collate([told, dropped, plain])
    assert captions(batch, "evolution") == ["it moves", "", batch.prompts[2]]
    assert captions(batch, "caption") == ["a circle", "", batch.prompts[2]]


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("recolor", r"The \w+ \w+ turns {color}\."),
        ("replace", r"The {color} \w+ turns into a {shape}\."),
        ("move", r"The {color} {shape} moves to the {position}\."),
        ("add", r"A {size} {color} {shape} appears at the {position}\."),
        ("resize", r"The {color} {shape} (grows|shrinks)\."),
        ("remove", r"The \w+ \w+ disappears\."),
        ("background", r"The room turns {room}\."),
        ("t2v", ""),
    ],
)
def test_the_world_tells_how_an_edit_happens(recipe, says):
    pool, plain = (kind(count=20, recipes=(recipe,), sizes=((8, 8),)) for kind in (EvolvingPool, WorldPool))
    for sample, other in zip(pool, plain, strict=True):
        told, after = sample.source.get("evolution", ""), sample.source["target"].get("after")
        assert re.fullmatch(says.format(**after or {}), told), told
        assert sample.instruction == other.instruction
        assert {k: v for k, v in sample.source.items() if k != "evolution"} == other.source


# Runs

RUN = replace(
    EXPERIMENTS["debug"],
    data=replace(EXPERIMENTS["debug"].data, sources=(EDITS,)),
    steps=4,
    checkpoint_every=2,
    optimizer=OptimizerConfig(lr=1e-2, warmup=0, ema=0.5),
)


def start_run(teacher: Path | str, output: Path, **changes) -> Trainer:
    forget_accelerate()
    output.mkdir(exist_ok=True)
    return Trainer(replace(RUN, teacher=VideoTeacher(str(teacher)), **changes), output)


def stored(output: Path) -> dict[str, torch.Tensor]:
    """All tensors of a run's newest checkpoint."""
    newest = max((output / "checkpoints").glob("step-*"))
    return {name: x for file in newest.glob("*.safetensors") for name, x in load_file(file).items()}


def test_a_run_resumes_exactly_and_saves_no_teacher(tiny_pipeline_folder, tmp_path):
    losses = start_run(tiny_pipeline_folder, tmp_path / "whole").train()
    plain = Trainer(RUN, tmp_path / "plain")
    alone = plain.train()
    assert all(taught > without for taught, without in zip(losses, alone, strict=True))
    assert stored(tmp_path / "whole").keys() == stored(tmp_path / "plain").keys()
    start_run(tiny_pipeline_folder, tmp_path / "parts", steps=2).train()
    resumed = start_run(tiny_pipeline_folder, tmp_path / "parts")
    resumed.resume()
    assert resumed.train() == losses[2:]
    file = "model/transformer/diffusion_pytorch_model.safetensors"
    one, other = (load_file(tmp_path / run / file) for run in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_in_bf16_holds_the_teacher_in_bf16(tiny_pipeline_folder, tmp_path):
    run = start_run(tiny_pipeline_folder, tmp_path / "run", precision="bf16", gradient_checkpointing=True, steps=1)
    assert run.objective._teacher[0].transformer.dtype == torch.bfloat16
    logged = []
    run.accelerator.log = lambda values, step: logged.append(values)
    run.train()
    assert logged[0]["teacher/blocks"] > 0 and logged[0]["teacher/tail"] > 0


def test_a_converted_cogvideox_teaches_itself(converted, tmp_path):  # noqa: F811
    """v-prediction on a schedule of its own, padded prompts, a frozen text encoder, latents of a video VAE."""
    data = replace(RUN.data, sources=(replace(EDITS, options=EDITS.options | {"sizes": ((32, 48),)}),))
    run = start_run(converted, tmp_path / "run", model=str(converted), data=data, steps=2)
    assert run.objective._teacher[0].text_encoder is run.components.text_encoder  # a frozen one is not held twice
    added = []
    run.train(lambda step, loss: added.append(run.objective.added))
    first, second = (torch.cat(list(losses.values())) for losses in added)
    assert first.max() < NOTHING < second.min() < second.max() < 100  # no caption tells more, so at first they are one


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_pipeline_folder) -> dict[str, str]:
    """Teachers that do not fit the debug size, and one that does."""
    root = tmp_path_factory.mktemp("teachers")
    vae = AutoencoderDC(
        in_channels=3, latent_channels=3, attention_head_dim=4,
        encoder_block_types="ResBlock", decoder_block_types="ResBlock",
        encoder_block_out_channels=(4,), decoder_block_out_channels=(4,),
        encoder_layers_per_block=(1,), decoder_layers_per_block=(1,),
        encoder_qkv_multiscales=((),), decoder_qkv_multiscales=((),),
    )  # fmt: skip
    teachers = {
        "deep": debug_components(num_layers=3),
        "wide": debug_components(num_attention_heads=3),
        "coarse": debug_components(patch_size=16),
        "latent": replace(debug_components(), vae=vae),
    }
    for name, parts in teachers.items():
        quiet_pipeline(parts).save_pretrained(root / name)
    return {name: str(root / name) for name in teachers} | {"fits": str(tiny_pipeline_folder)}


@pytest.mark.parametrize(
    ("teacher", "options", "message"),
    [
        ("nowhere", "", "teacher.model 'nowhere' is neither a folder nor one of: unireal-tiny"),
        ("deep", "", "has 3 blocks of width 32"),
        ("wide", "", "2 blocks of width 48 on 3 channels in patches of 8, the student 2 blocks of width 32"),
        ("coarse", "", "in patches of 16"),
        ("latent", "", "another VAE than the student"),
        ("fits", "--teacher.layers 0 2", "teacher.layers are numbers of blocks, -2..1 of this model, got 2"),
        ("fits", "--teacher.tasks edits", "did you mean 'edit'?"),
        ("fits", "--teacher.tail -1", "weights blocks and tail >= 0"),
        ("fits", "--teacher.tail 0 --teacher.blocks 0", "at least one above 0"),
        ("fits", "--distillation.steps 4", "distillation excludes a teacher"),
    ],
)
def test_a_teacher_that_does_not_fit_is_told(folders, tmp_path, capfd, teacher, options, message):
    model = folders.get(teacher, teacher)
    arguments = ["debug", "--output", str(tmp_path / "run"), "--teacher.model", model, *options.split()]
    assert main(arguments) == 2
    *_, error = capfd.readouterr().err.splitlines()  # the VAE is known after the loading, which has bars
    assert message in error and error.startswith("train.py: ")
    assert not (tmp_path / "run").exists()


def test_precomputed_features_leave_the_teacher_without_words(tiny_pipeline_folder):
    parts = replace(debug_components(), text_encoder=None, tokenizer=None)
    config = replace(RUN, teacher=VideoTeacher(str(tiny_pipeline_folder)))
    with pytest.raises(ValueError, match="train on pictures instead of precomputed data"):
        make_objective(config, Start(parts, {}, tiny_pipeline_folder))


def test_the_recipe_is_a_teacher_and_then_its_student():
    teacher, student = EXPERIMENTS["tiny-video-teacher"], EXPERIMENTS["tiny-video-student"]
    recipes = [name for source in teacher.data.sources for name in source.options["recipes"]]
    assert sorted(recipes) == ["frame2frame", "image_to_video", "t2v"]
    assert student.teacher.model == student.model == "runs/tiny-video-teacher/model"
    (pool,) = Mixture(student.data.sources).sources
    assert captions(collate([pool[0]]), student.teacher.caption) == [pool[0].source["evolution"]]
    words = " ".join(vocabulary(replace(teacher, model="debug")))
    assert "Remove" in words  # the student reads with the teacher's tokenizer, which knows what edits say
