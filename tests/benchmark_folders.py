"""Every public benchmark as a tiny folder in its real format: the file and column names are those of the data sets."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Image, List, Value
from evaluation_data import picture
from PIL import Image as Pil


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pil.fromarray(pixels).save(path)
    return path


def save_hub(path: Path, rows: list[dict], pictures: tuple[str, ...], **features) -> None:
    """Parquet as `datasets` writes it for the hub; pictures are stored as {bytes, path}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {key: Value("string" if isinstance(value, str) else "int64") for key, value in rows[0].items()}
    known |= {key: Value("bool") for key, value in rows[0].items() if isinstance(value, bool)}
    schema = Features(known | dict.fromkeys(pictures, Image()) | features)
    columns = {key: [Pil.fromarray(r[key]) if key in pictures else r[key] for r in rows] for key in rows[0]}
    Dataset.from_dict(columns, features=schema).to_parquet(path)


def emu_edit(root: Path, count: int = 6) -> Path:
    captions = [
        ("a cat on a mat", "a dog on a mat"),
        ("A cat.", "a cat"),  # equal but for case and full stop
        ("a train station in city", "a train station in city with a dog"),
    ]
    rows = [
        {
            "idx": 100 + i,
            "image": picture((40, 48), seed=i),
            "instruction": f"Make it a dog, number {i}.",
            "task": ("add", "remove", "local")[i % 3],
            "input_caption": captions[i % 3][0],
            "output_caption": captions[i % 3][1],
        }
        for i in range(count)
    ]
    save_hub(root / "data" / "test-00000-of-00002.parquet", rows[: count // 2], ("image",))
    save_hub(root / "data" / "test-00001-of-00002.parquet", rows[count // 2 :], ("image",))
    save_hub(root / "data" / "validation-00000-of-00001.parquet", rows[:1], ("image",))
    return root


def magicbrush(root: Path) -> Path:
    sessions, whole, local = {}, {}, {}
    for number, (session, turns) in enumerate({"139306": 2, "242679": 1}.items()):
        folder = root / "images" / session
        names = [f"{session}-input.png", *(f"{session}-output{t + 1}.png" for t in range(turns))]
        for k, name in enumerate(names):
            save(folder / name, picture((40, 40), seed=10 * number + k))
        sessions[session] = []
        for t in range(turns):
            clear = np.full((40, 40, 4), 255, np.uint8)
            clear[5:20, 5:20, 3] = 0
            save(folder / f"{session}-mask{t + 1}.png", clear)
            sessions[session].append(
                {
                    "input": names[t],
                    "mask": f"{session}-mask{t + 1}.png",
                    "output": names[t + 1],
                    "instruction": f"Edit {t + 1} of {session}.",
                }
            )
        whole[session] = {name: f"picture {k} of a room" for k, name in enumerate(names)}
        local[session] = {name: f"thing {k}" for k, name in enumerate(names[1:], start=1)}
    for name, content in (
        ("edit_sessions", sessions),
        ("global_descriptions", whole),
        ("local_descriptions", local),
    ):
        (root / f"{name}.json").write_text(json.dumps(content))
    return root


def magicbrush_dev(root: Path) -> Path:
    rows = [
        {
            "img_id": "7",
            "turn_index": turn,
            "source_img": picture((40, 40), seed=turn),
            "mask_img": picture((40, 40), seed=turn + 5),
            "instruction": f"Edit {turn}.",
            "target_img": picture((40, 40), seed=turn + 1),
        }
        for turn in (1, 2)
    ]
    save_hub(root / "data" / "dev-00000-of-00001.parquet", rows, ("source_img", "mask_img", "target_img"))
    return root


PROMPTS = """Classes

subject_name,class
backpack,backpack
bear_plushie,stuffed animal
dog2,dog

Prompts

Object Prompts

prompt_list = [
'a {0} {1} in the jungle'.format(unique_token, class_token),
'a red {0} {1}'.format(unique_token, class_token)
]

Live Subject Prompts

prompt_list = [
'a {0} {1} wearing a red hat'.format(unique_token, class_token)
]
"""


def dreambench(root: Path) -> Path:
    for number, subject in enumerate(("backpack", "bear_plushie", "dog2")):
        for view in range(2):
            save(root / "dataset" / subject / f"{view:02d}.jpg", picture((40, 40), seed=10 * number + view))
    (root / "dataset" / "prompts_and_classes.txt").write_text(PROMPTS)
    return root


def pie_bench(root: Path) -> Path:
    entries = {
        "000000000000": ("0_random_140", "0", [512 * 100, 512 * 200]),
        "111000000000": ("1_change_object_80", "1", [512 * 10 + 5, 600, 512 * 40, 900]),
        "911000000001": ("9_change_style_80", "9", [0, 512 * 512]),  # everything is edited
    }
    mapping = {}
    for number, (key, (folder, kind, mask)) in enumerate(entries.items()):
        path = f"{folder}/1_artificial/1_animal/{key}.jpg"
        save(root / "annotation_images" / path, picture((512, 512), seed=number))
        mapping[key] = {
            "image_path": path,
            "original_prompt": "a [cat] in a room",
            "editing_prompt": "a [dog] in a room",
            "editing_instruction": "Change the cat to a dog",
            "editing_type_id": kind,
            "blended_word": "cat dog",
            "mask": mask,
        }
    (root / "mapping_file.json").write_text(json.dumps(mapping))
    return root


def pie_bench_hub(root: Path) -> Path:
    for number, folder in enumerate(("1_change_object_80", "9_change_style_80")):
        row = {
            "id": f"{number}11000000000",
            "image": picture((512, 512), seed=number),
            "source_prompt": "a [cat]",
            "target_prompt": "a [dog]",
            "edit_action": "{}",
            "aspect_mapping": "{}",
            "blended_words": '["cat,dog"]',
            "mask": "5120 600 20480 900",
        }
        save_hub(root / folder / "V1-00000-of-00001.parquet", [row], ("image",))
    return root


def imgedit(root: Path) -> Path:
    listed = {
        "1082": {"id": "animal/000342021.jpg", "prompt": "Remove the cat.", "edit_type": "remove"},
        "673": {"id": "style/000029.jpg", "prompt": "Turn it into a sketch.", "edit_type": "style"},
    }
    for number, entry in enumerate(listed.values()):
        save(root / "Benchmark" / "singleturn" / entry["id"], picture((40, 56), seed=number))
    (root / "basic_edit.json").write_text(json.dumps(listed))
    return root


def imgedit_uge(root: Path) -> Path:
    listed = {
        "1": {"id": "000029784.jpg", "prompt": "Remove the lemon slice inside the glass."},
        "19": {"id": "000301480.jpg", "prompt": "Change the cars to match the one on the left."},
    }
    for number, entry in enumerate(listed.values()):
        save(root / "Benchmark" / "hard" / entry["id"], picture((40, 56), seed=number))
    path = root / "Benchmark" / "UGE" / "UGE_edit.json"
    path.parent.mkdir()
    path.write_text(json.dumps(listed))
    return root


def imgedit_multi(root: Path) -> Path:
    """One session per suite, of two or three turns; despite its name the list has a JSON object in each line."""
    turns = {"content_memory": 3, "content_understand": 2, "version_backtrace": 2}
    for number, (suite, count) in enumerate(turns.items()):
        session = {"id": "000066341.jpg"} | {f"turn{k}": f"Edit {k} of {suite}." for k in range(1, count + 1)}
        folder = root / "Benchmark" / "multiturn" / suite
        save(folder / session["id"], picture((40, 48), seed=number))
        (folder / "annotation.json").write_text(json.dumps(session) + "\n")
    return root


def gedit(root: Path) -> Path:
    rows = [
        {
            "task_type": "subject-add" if i < 2 else "color_alter",
            "key": f"{i // 2:032x}{language}",
            "instruction": "Add a dog." if language == "en" else "加一只狗",
            "instruction_language": language,
            "input_image": picture((40, 48), seed=i),
            "input_image_raw": picture((80, 96), seed=i),
            "Intersection_exist": i < 2,
        }
        for i in range(4)
        for language in ("en", "cn")
        if not (i % 2 and language == "cn")
    ]
    for i, row in enumerate(rows):
        row["key"] = f"{i:032x}"
    save_hub(root / "data" / "train-00000-of-00001.parquet", rows, ("input_image", "input_image_raw"))
    return root


def editeval(root: Path) -> Path:
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["Edit Class", "Source Prompt", "Target Prompt", "Instruction"])
    sheet.append(["Object Addition", "a table", "a table with a cup", "Add a cup."])
    sheet.append([None, "a lawn", "a lawn with a dog", "Add a dog."])
    sheet.append(["Object Removal", "a cup", "a table", "Remove the cup."])
    for number, name in enumerate(("object_addition/1.jpg", "object_addition/2.jpeg", "object_removel/1.jpg")):
        save(root / "Dataset" / name, picture((40, 44), seed=number))
    book.save(root / "Dataset" / "editing_prompts_collection.xlsx")
    return root


def tgve(root: Path) -> Path:
    """A video as frames and one as a file; the sheet has lines without captions between its parts."""
    import av

    head = ["Video name", "Our GT caption", "Style Change Caption", "Object Change Caption"]
    head += ["Background Change Caption", "Multiple Changes Caption"]
    kinds = ["in style", "with a dog", "on the moon", "all of it"]
    root.mkdir(parents=True, exist_ok=True)
    with (root / "LOVEU-TGVE-2023_Dataset.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(head)
        lines.writerow(["DAVIS Videos:"] + [""] * 5)
        lines.writerow(["stunt", "a man jumps", *(f"a man jumps {kind}" for kind in kinds)])
        lines.writerow([""] * 6)
        lines.writerow(["Youtube Videos:"] + [""] * 5)
        lines.writerow(["swans", "swans swim", *(f"swans swim {kind}" for kind in kinds)])
    for k in range(4):
        save(root / "DAVIS_480p" / "480p_frames" / "stunt" / f"{k:05d}.jpg", picture((48, 48), seed=k))
    path = root / "youtube_480p" / "480p_videos" / "swans.mp4"
    path.parent.mkdir(parents=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 48
        for k in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture((48, 48), seed=20 + k), format="rgb24")))
        container.mux(stream.encode())
    return root


def ditto(root: Path) -> Path:
    for k in range(4):
        save(root / "videos" / "source" / "0001" / f"{k:03d}.png", picture((40, 56), seed=k))
    with (root / "test.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["video", "prompt", "vace_video"])
        lines.writerow(["videos/local/0001.mp4", "Make it a drawing.", "videos/source/0001"])
    return root


def nyu_depth(root: Path) -> Path:
    for number in (1, 2):
        rows, columns = np.mgrid[0:480, 0:640]
        depth = (1000 + 4 * rows + 3 * columns * number).astype(np.uint16)  # millimetres, partly beyond 10 m: no
        depth[:100, :100] = 0  # unknown
        grey = np.clip(depth / 5000 * 255, 0, 255).astype(np.uint8)
        folder = root / "test" / "kitchen_0004"
        save(folder / f"rgb_{number:04d}.png", np.repeat(grey[..., None], 3, axis=2))
        save(folder / f"depth_{number:04d}.png", depth)
    return root


def diode(root: Path) -> Path:
    for place in ("indoors", "outdoor"):
        folder = root / "val" / place / "scene_00019" / "scan_00183"
        shown = save(folder / "00019_00183_010.png", picture((24, 32), seed=len(place)))
        depth = np.random.default_rng(len(place)).uniform(1, 20, (24, 32, 1)).astype(np.float32)
        np.save(shown.with_name("00019_00183_010_depth.npy"), depth)
        np.save(shown.with_name("00019_00183_010_depth_mask.npy"), (depth[..., 0] < 15).astype(np.float32))
    return root


def refcoco(root: Path) -> Path:
    rows = [
        {
            "question_id": "500",  # of both
            "image": picture((40, 60), seed=i),
            "question": "Please describe the region.",
            "answer": ["the left thing", "thing on the left"][: i + 1],
            "segmentation": [5.0, 5.0, 30.0, 5.0, 30.0, 25.0, 5.0, 25.0],
            "iscrowd": 0,
            "file_name": f"COCO_train2014_{i:012d}.jpg",
        }
        for i in range(2)
    ]
    lists = {"answer": List(Value("string")), "segmentation": List(Value("float64"))}
    save_hub(root / "data" / "val-00000-of-00001.parquet", rows, ("image",), **lists)
    return root


def reasonseg(root: Path) -> Path:
    square = [[10, 10], [40, 10], [40, 30], [10, 30]]
    annotation = {
        "text": ["something to sit on – a chair", "the chair"],
        "is_sentence": True,
        "shapes": [
            {"label": "target", "points": square},
            {"label": "ignore", "points": [[20, 15], [25, 15], [25, 20], [20, 20]]},
            {"label": "flag", "points": [[0, 0], [59, 0], [59, 39]]},
        ],
    }
    save(root / "val" / "chair_01.jpg", picture((40, 60)))
    (root / "val" / "chair_01.json").write_bytes(json.dumps(annotation, ensure_ascii=False).encode("cp1252"))
    return root


def brushbench(root: Path) -> Path:
    save(root / "images" / "natural" / "000000000.jpg", picture((512, 512)))
    entry = {
        "image": "images/natural/000000000.jpg",
        "caption": "a dog on a lawn",
        "inpainting_mask": [512 * 100 + 1, 512 * 50],
        "outpainting_mask": [1, 512 * 100, 512 * 150 + 1, 512 * 362],
    }
    (root / "mapping_file.json").write_text(json.dumps({"000000000": entry}))
    return root


FOLDERS: dict[str, Callable[[Path], Path]] = {
    **{"emu_edit": emu_edit, "magicbrush": magicbrush, "magicbrush_multi": magicbrush, "dreambench": dreambench},
    **{"pie_bench": pie_bench, "imgedit": imgedit, "gedit": gedit, "editeval": editeval, "tgve": tgve, "ditto": ditto},
    **{"imgedit_uge": imgedit_uge, "imgedit_multi": imgedit_multi},
    **{"nyu_depth": nyu_depth, "diode": diode, "refcoco": refcoco, "reasonseg": reasonseg, "brushbench": brushbench},
    **dict.fromkeys(("refcoco+", "refcocog"), refcoco),
}
