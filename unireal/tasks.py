"""What each task is, as a value. Data, prompts, pipeline, evaluation, demo, `infer.py --help` and the README's table
read `TASKS`; to add a task, add a value here (see README, "Add a task").

A task says which frames it takes, in which roles, and what comes out. Nothing else in the code may ask for its name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from unireal.names import lookup
from unireal.sample import Role
from unireal.taxonomy import EDIT_TYPES, accepted_conditions, check_edit_types

CONTROL_KINDS = ("depth", "edge", "pose", "segmentation", "sketch", "layout", "mask", "drag")


@dataclass(frozen=True)
class Slot:
    """Input frames of one role that a task takes.

    option: the argument of infer.py and of the pipeline that fills it ("canvas", "asset", "control", "mask", "video").
    minimum, maximum: how many frames; kinds: what they may show.
    clip: the frames are consecutive ones of one video file, of which the model sees that many at a time.
    scaffold: training leaves the frames out more and more often (Ditto's modality curriculum).
    """

    option: str
    role: Role
    minimum: int = 1
    maximum: int = 1
    kinds: tuple[str, ...] = ("image",)
    clip: bool = False
    scaffold: bool = False

    @property
    def optional(self) -> bool:
        return self.minimum == 0

    def __str__(self) -> str:
        count = f"{self.minimum}" if self.minimum == self.maximum else f"{self.minimum}..{self.maximum}"
        return f"--{self.option}" + ("" if self.maximum == 1 or self.clip else f" ({count})")


@dataclass(frozen=True)
class TaskSpec:
    """One task.

    template:    how a bare prompt becomes an instruction; {prompt} and {kind} are filled in.
    example:     a prompt that works, for help texts and errors.
    default_prompt: used when the user gives none; None makes the prompt mandatory.
    context:     default context prompt, keywords of unireal.prompts.CONTEXT_KEYWORDS.
    num_results: (minimum, maximum) number of result frames that are generated jointly, RES1..; the minimum is the
                 default. Where the maximum is 1, more results are independent variants.
    size_rule:   "canvas": results have the first canvas's (else the first control's) size; "free": --size, or the
                 model's native size.
    prepare:     what is done to the frames first: "erase" blanks the canvas inside the mask, "expand" grows the
                 canvas by --expand and makes the mask; None leaves them.
    result_kind: what the first result shows; "mask" results are thresholded, "depth" results made grey.
    paste_back:  pixels of the canvas outside the mask are copied back into the result, bit for bit.
    video:       the results are consecutive frames of a video; a video of more frames is made window by window, each
                 of num_results frames (unireal.video.windows).
    edit_types:  the survey's edit types that the task covers, names in unireal.taxonomy.EDIT_TYPES.
    class_prompt: the prompt that a class label makes (infer.py --class-label).

    Raises ValueError for an unknown edit type.
    """

    name: str
    summary: str
    slots: tuple[Slot, ...]
    template: str = "{prompt}"
    example: str = ""
    default_prompt: str | None = None
    context: str = "realistic style, static scenario"
    num_results: tuple[int, int] = (1, 1)
    size_rule: Literal["canvas", "free"] = "canvas"
    prepare: Literal["erase", "expand"] | None = None
    result_kind: Literal["image", "mask", "depth"] = "image"
    paste_back: bool = False
    video: bool = False
    edit_types: tuple[str, ...] = ()
    class_prompt: str = "an object of the class {label}"

    def __post_init__(self) -> None:
        check_edit_types(self.edit_types)

    @property
    def conditions(self) -> tuple[str, ...]:
        """The survey's input conditions that the task can be given, names in unireal.taxonomy.INPUT_CONDITIONS."""
        return accepted_conditions((slot.role, slot.kinds) for slot in self.slots)

    def slot(self, option: str) -> Slot | None:
        return next((s for s in self.slots if s.option == option), None)


CANVAS = Slot("canvas", Role.CANVAS)
ASSET = Slot("asset", Role.ASSET)
MASK = Slot("mask", Role.CONTROL, kinds=("mask",))
CONTROL = Slot("control", Role.CONTROL, kinds=CONTROL_KINDS)
VIDEO = Slot("video", Role.CANVAS, minimum=4, maximum=7, clip=True)  # and a reference: what index tables hold

_SPECS = (
    TaskSpec(
        name="t2i",
        summary="text to image",
        slots=(),
        example="A large red circle at the left in a sand room.",
        context="realistic style, novel scenario",
        size_rule="free",
    ),
    TaskSpec(
        name="edit",
        summary="edit an image by an instruction",
        slots=(CANVAS,),
        example="Make the red circle green.",
        edit_types=tuple(EDIT_TYPES),
        class_prompt="Replace the main object of IMG1 by one of the class {label}.",
    ),
    TaskSpec(
        name="inpaint",
        summary="fill the masked part of an image; the rest stays bit-identical",
        slots=(CANVAS, MASK),
        template="Fill the hole in IMG1; {prompt}",
        example="a sand room with a red circle",
        default_prompt="Fill the hole in IMG1.",
        prepare="erase",
        paste_back=True,
    ),
    TaskSpec(
        name="outpaint",
        summary="continue an image beyond its borders (--expand L,T,R,B)",
        slots=(CANVAS,),
        template="Extend IMG1; {prompt}",
        example="a sand room",
        default_prompt="Extend IMG1.",
        prepare="expand",
        paste_back=True,
    ),
    TaskSpec(
        name="insert",
        summary="insert reference objects into a scene",
        slots=(CANVAS, replace(ASSET, maximum=3), replace(MASK, minimum=0)),
        example="Add the object from IMG2 to IMG1 at the left.",
        context="realistic style, static scenario, with reference object",
        edit_types=("object addition",),
        class_prompt="Add the object from IMG2, of the class {label}, to IMG1.",
    ),
    TaskSpec(
        name="customize",
        summary="put 1 to 4 reference objects into a new image",
        slots=(replace(ASSET, maximum=4),),
        example="The object from IMG1 at the left in a sand room.",
        context="realistic style, with reference object, novel scenario",
        size_rule="free",
    ),
    TaskSpec(
        name="control",
        summary="generate an image that follows depth, edges, a pose, segmentation, sketch, layout, mask or drag",
        slots=(CONTROL,),
        template="The result follows the {kind} of IMG1; {prompt}",
        example="a large red circle at the left in a sand room",
        context="realistic style, novel scenario",
        edit_types=("object movement",),  # by a drag
    ),
    TaskSpec(
        name="depth",
        summary="predict the depth map",
        slots=(CANVAS,),
        template="Predict the depth map of IMG1; {prompt}",
        default_prompt="Predict the depth map of IMG1.",
        context="realistic style, perception task",
        result_kind="depth",
    ),
    TaskSpec(
        name="segment",
        summary="segment what the prompt refers to",
        slots=(CANVAS,),
        template="Segment {prompt}.",
        example="the red circle",
        context="realistic style, perception task",
        result_kind="mask",
        class_prompt="the {label}",
    ),
    TaskSpec(
        name="restore",
        summary="colorize or deblur an image",
        slots=(CANVAS,),
        example="Colorize IMG1.",
        default_prompt="Restore IMG1.",
        class_prompt="Restore IMG1; an object of the class {label}.",
    ),
    TaskSpec(
        name="tryon",
        summary="dress the object of the canvas in the pattern of the asset",
        slots=(CANVAS, ASSET),
        template="Dress {prompt} of IMG1 in the pattern of IMG2.",
        example="the red circle",
        context="realistic style, static scenario, with reference object",
        edit_types=("color change", "texture change"),
        class_prompt="the {label}",
    ),
    TaskSpec(
        name="video_edit",
        summary="edit a video by an instruction; an asset shows its first frame edited",
        slots=(VIDEO, replace(ASSET, minimum=0, scaffold=True)),
        example="Make the red circle green.",
        context="realistic style, dynamic scenario",
        num_results=(4, 7),
        video=True,
        edit_types=("object addition", "object removal", "object replacement", "color change", "texture change"),
    ),
    TaskSpec(
        name="t2v",
        summary="text to video; a canvas is its first frame",
        slots=(replace(CANVAS, minimum=0),),
        example="A large red circle at the left in a sand room; the red circle moves up.",
        context="realistic style, dynamic scenario",
        num_results=(4, 8),
        video=True,
    ),
    TaskSpec(
        name="compose",
        summary="any frames in any roles, any number of results",
        slots=(
            replace(CANVAS, minimum=0, maximum=8),
            replace(ASSET, minimum=0, maximum=8),
            replace(CONTROL, minimum=0, maximum=8),
        ),
        example="Make the red circle green; Predict the mask of the edited region in RES2.",
        num_results=(1, 8),
        edit_types=tuple(EDIT_TYPES),
    ),
)

TASKS: dict[str, TaskSpec] = {spec.name: spec for spec in _SPECS}


def register(spec: TaskSpec) -> TaskSpec:
    """Adds a task from outside (unireal.plugins). Raises ValueError if another one has its name already."""
    if TASKS.setdefault(spec.name, spec) != spec:
        raise ValueError(f"there is a task {spec.name!r} already; choose another name")
    return spec


def get_task(name: str) -> TaskSpec:
    """The task of that name. Raises ValueError with the nearest name for an unknown one."""
    return lookup(TASKS, name, "task")
