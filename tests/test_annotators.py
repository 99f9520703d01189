"""The annotators: real models of tiny size, an endpoint that misbehaves, and the world's oracle."""

from __future__ import annotations

import json
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_annotators as tiny
import torch
from transformers import AutoConfig, DepthAnythingConfig, DPTConfig

from data_builders.annotators import choose
from data_builders.annotators.boxes import bounding_box, clipped, overlap
from data_builders.annotators.chat import EndpointChat, LocalChat
from data_builders.annotators.grounding import Florence2, GroundingDino, load_grounder
from data_builders.annotators.maps import Canny, DepthAnything, VitPose
from data_builders.annotators.protocols import CRITERIA, Annotators, Refused, sequence
from data_builders.annotators.segmentation import Sam2
from data_builders.annotators.vlm import VisionLanguageAnnotator
from data_builders.world.export import world_videos, write_video
from data_builders.world.oracle import Oracle, annotators_of, depth16, read_world_video
from data_builders.world.render import DEPTH_RANGE, encode_depth
from data_builders.world.scene import UNSEEN_PAIRS
from data_builders.world.video import WorldVideo

ANSWER = {"instruction": "Make the circle blue.", "reverse": "Make the circle red.", "objects": ["the circle"]}
SCORES = dict(zip(CRITERIA, (10, 1, 4, 10), strict=True))


@pytest.fixture(scope="module")
def video() -> WorldVideo:
    return WorldVideo(7, (48, 64), 4, movers=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("annotators")


# --- an endpoint


class Server:
    """A chat-completions server in this process that answers from a list; an int is a status, perhaps with a
    reason, a float a pause."""

    def __init__(self):
        self.answers: list = []
        self.requests: list[dict] = []
        self.models = 501  # status of the list of models
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_error(outer.models)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append(json.loads(body))
                answer = outer.answers.pop(0)
                if isinstance(answer, float):
                    time.sleep(answer)
                    answer = "too late"
                answer, reason = answer if isinstance(answer, tuple) else (answer, f"status {answer}")
                status = answer if isinstance(answer, int) else 200
                if isinstance(answer, bytes):
                    reply = answer
                elif isinstance(answer, int):
                    reply = json.dumps({"error": {"message": reason}}).encode()
                else:
                    message = answer if isinstance(answer, dict) else {"content": answer}
                    end = message.pop("finish_reason", "stop")
                    choice = {"index": 0, "finish_reason": end, "message": {"role": "assistant", **message}}
                    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
                    reply = json.dumps(body).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(reply)))
                    self.send_header("Retry-After-Ms", "1")
                    self.end_headers()
                    self.wfile.write(reply)
                except OSError:
                    pass  # the client went away

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def text(self, number: int) -> str:
        return self.requests[number]["messages"][0]["content"][-1]["text"]


@pytest.fixture
def server():
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


def endpoint(server: Server, **options) -> VisionLanguageAnnotator:
    return VisionLanguageAnnotator(EndpointChat(server.url, "m", **{"timeout": 20.0, "retries": 3} | options))


def test_endpoint_recovers_from_a_bad_day(server, video):
    vlm = endpoint(server)
    wrong = json.dumps(ANSWER | {"objects": "the circle"})
    server.answers = [429, 500, "Sure! Here it is: {", wrong, f"```json\n{json.dumps(ANSWER)}\n```"]
    got = vlm.instruct(video.frames[0], video.frames[-1], "a caption of the video")
    assert (got.instruction, got.reverse, got.objects) == (ANSWER["instruction"], ANSWER["reverse"], ("the circle",))
    assert vlm.counts == {"asked": 1, "retried": 2, "refused": 0} or vlm.counts == {"asked": 1, "retried": 2}
    assert "a caption of the video" in server.text(0)
    assert "not JSON" in server.text(3) and "objects: 'the circle' is not of type 'array'" in server.text(4)
    seeds = [request["seed"] for request in server.requests]
    assert seeds[0] == seeds[2] and len(set(seeds[2:])) == 3
    schema = server.requests[0]["response_format"]["json_schema"]["schema"]
    assert schema["required"] == list(ANSWER) and "minLength" not in json.dumps(schema)
    pictures = [c for c in server.requests[0]["messages"][0]["content"] if c["type"] == "image_url"]
    assert len(pictures) == 2 and pictures[0]["image_url"]["url"].startswith("data:image/jpeg;base64,")


def test_endpoint_counts_what_it_cannot_use(server, video):
    vlm = endpoint(server)
    server.answers = ["no", "[]", json.dumps({"instruction": "x"})]
    with pytest.raises(Refused, match=r"no usable answer in 3 attempts; .*(too short|required)"):
        vlm.instruct(video.frames[0], video.frames[1], "")
    server.answers = [{"content": None, "refusal": "I can't help with that."}]
    with pytest.raises(Refused, match="declined: I can't help"):
        vlm.caption(video.frames)
    server.answers = [{"content": "", "finish_reason": "content_filter"}]
    with pytest.raises(Refused, match="content filter"):
        vlm.caption(video.frames)
    server.answers = [b"<html>login</html>"]
    with pytest.raises(Refused, match="no chat completion"):
        vlm.caption(video.frames)
    server.answers = [b"{}"]
    with pytest.raises(Refused, match="without a message"):
        vlm.caption(video.frames)
    assert vlm.counts["asked"] == vlm.counts["refused"] == 5


def test_words_that_decline_or_think_aloud_are_no_caption(server, video):
    vlm = endpoint(server)
    server.answers = ["I'm sorry, but I can't help with that.", "<think>Is it red? I can't tell.</think>\n\nA circle."]
    assert vlm.caption(video.frames) == "A circle."
    server.answers = ["I am unable to describe people.", "As an AI model, I cannot.", "Sorry, no."]
    with pytest.raises(Refused, match="in 3 attempts; it declines, 'Sorry, no"):
        vlm.caption(video.frames)
    server.answers = ["Unfortunately, I can see nothing.", "A sign says: I can't, sorry."]
    assert vlm.caption(video.frames) == "A sign says: I can't, sorry."


def test_an_answer_that_is_cut_off_is_asked_for_again(server, video):
    vlm = endpoint(server, max_tokens=9)
    half = {"content": "The picture shows a red", "finish_reason": "length"}
    server.answers = [dict(half), "A red circle."]
    assert vlm.caption(video.frames) == "A red circle."
    assert server.text(1).endswith("it was longer than 9 tokens, thoughts included, and cut off")
    server.answers = [dict(half), {"content": "<think>First I", "finish_reason": "length"}, dict(half)]
    with pytest.raises(Refused, match=r"in 3 attempts; it was longer than 9 tokens, thoughts included, and cut off$"):
        vlm.caption(video.frames)


def test_endpoint_that_is_away_or_set_up_wrong(server, video):
    server.answers = [5.0]
    start = time.monotonic()
    with pytest.raises(ConnectionError, match="did not answer after 0 retries"):
        endpoint(server, timeout=0.2, retries=0).caption(video.frames)
    assert time.monotonic() - start < 4
    server.answers = [503, 503]
    with pytest.raises(ConnectionError, match="status 503"):
        endpoint(server, retries=1).caption(video.frames)
    server.answers = [404]
    with pytest.raises(ConnectionError, match="check the model's name"):  # no fault of the video: it is tried again
        endpoint(server).caption(video.frames)
    with pytest.raises(ConnectionError):
        VisionLanguageAnnotator(EndpointChat("http://127.0.0.1:9/v1", "m", retries=0)).caption(video.frames)
    with pytest.raises(ValueError, match="starts with http"):
        EndpointChat("localhost:8000", "m")
    EndpointChat(server.url, "m").check()  # it answers, though it tells no models
    server.models = 401
    with pytest.raises(ValueError, match=r"does not accept the key .* set OPENAI_API_KEY"):
        EndpointChat(server.url, "m").check()
    with pytest.raises(ValueError, match=r"nothing answers at .* start the server"):
        EndpointChat("http://127.0.0.1:9/v1", "m").check()


def test_endpoint_questions_of_all_kinds(server, video):
    vlm = endpoint(server, structured=False)
    video_answer = {
        "scope": "local",
        "key_frame_instruction": "Make it red.",
        "video_instruction": "Make it red always.",
    }
    phrases = {"objects": ["the red car", " the red car ", "a tree"]}
    server.answers = [' "A red  car.\n" ', json.dumps(phrases), json.dumps(video_answer), json.dumps(SCORES)]
    assert vlm.caption(video.frames) == "A red car."
    assert vlm.objects(video.frames, "A red car.") == ("the red car", "a tree")
    assert vlm.video_instruction(video.frames, "A red car.").scope == "local"
    scores = vlm.judge(video.frames[0], video.frames[1], "Paint it.")
    assert scores == {"instruction_fidelity": 1.0, "source_fidelity": 0.0, "visual_quality": 3 / 9, "safety": 1.0}
    assert not any("response_format" in request for request in server.requests)
    counts = [sum(c["type"] == "image_url" for c in r["messages"][0]["content"]) for r in server.requests]
    assert counts == [4, 1, 4, 2]
    pickle.loads(pickle.dumps(vlm))  # goes to other processes, though it holds a connection


def test_pairs_without_a_change_get_no_instruction(server, video):
    vlm = endpoint(server)
    asked = "Nothing.", "No visible changes are needed.", "There is no difference.", "Keep the picture unchanged."
    for words in asked:
        server.answers = [json.dumps(ANSWER | {"instruction": words})]
        with pytest.raises(Refused, match="m sees no change between the two frames"):
            vlm.instruct(video.frames[0], video.frames[0], "")
    for words in ("Make no car visible.", "Keep the picture dark and add nothing.", "Note the time on the wall."):
        server.answers = [json.dumps(ANSWER | {"instruction": words})]
        assert vlm.instruct(video.frames[0], video.frames[1], "").instruction == words


def test_a_server_that_knows_only_max_completion_tokens(server, video):
    server.answers = [(400, "Unsupported 'max_tokens': use 'max_completion_tokens'"), "a", "b"]
    vlm = endpoint(server, max_tokens=77)
    assert [vlm.caption(video.frames) for _ in range(2)] == ["a", "b"]
    limits = [{name: body[name] for name in body if name.startswith("max_")} for body in server.requests]
    assert limits == [{"max_tokens": 77}, {"max_completion_tokens": 77}, {"max_completion_tokens": 77}]


def test_a_server_that_takes_no_temperature(server, video):
    unsupported = "Unsupported parameter: '{}' is not supported with this model."
    server.answers = [*((400, unsupported.format(name)) for name in ("temperature", "top_p")), "a", "b"]
    vlm = endpoint(server)
    assert [vlm.caption(video.frames) for _ in range(2)] == ["a", "b"]
    sent = [[name for name in ("temperature", "top_p") if name in body] for body in server.requests]
    assert sent == [["temperature", "top_p"], ["top_p"], [], []]


@pytest.mark.parametrize(
    ("status", "complaint"),
    [
        (400, "Unrecognized request argument supplied: top_k"),
        (400, "The top_k `-1` cannot be a negative integer."),
        (400, 'Invalid JSON payload received. Unknown name "top_k": Cannot find field.'),
        (422, "{'type': 'extra_forbidden', 'loc': ['body', 'top_k'], 'msg': 'Extra inputs are not permitted'}"),
    ],
)
def test_servers_choose_among_all_words_as_far_as_they_can_be_told(server, video, status, complaint):
    server.answers = ["a", (status, complaint), "b", "c"]
    told, plain = endpoint(server), endpoint(server)
    assert told.caption(video.frames) == "a"
    assert [plain.caption(video.frames) for _ in range(2)] == ["b", "c"]
    assert [body.get("top_k") for body in server.requests] == [-1, -1, None, None]
    assert {body["temperature"] for body in server.requests} == {0.7}


def test_a_temperature_in_another_complaint_is_kept(server, video):
    server.answers = [(400, "bad picture in {'temperature': 0.7}")]
    with pytest.raises(ConnectionError, match="bad picture"):
        endpoint(server).caption(video.frames)
    assert len(server.requests) == 1


def test_the_same_question_has_the_same_seed_in_every_process(server, video):
    server.answers = ["a", "a", "a"]
    for seed in (0, 0, 1):
        VisionLanguageAnnotator(EndpointChat(server.url, "m"), seed=seed).caption(video.frames)
    first, again, other = (request["seed"] for request in server.requests)
    assert first == again != other


# --- models of transformers


@pytest.fixture(scope="module")
def qwen(folder, video) -> VisionLanguageAnnotator:
    """A tiny Qwen2.5-VL that has learnt one answer by heart."""
    answer = json.dumps(ANSWER)
    chat = LocalChat.from_pretrained(str(tiny.qwen_vl(folder / "qwen", [answer] * 4)), max_new_tokens=120)
    vlm = VisionLanguageAnnotator(chat)
    asked: list = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            LocalChat, "reply", lambda self, text, images, schema, seed: asked.append((text, images)) or answer
        )
        vlm.instruct(video.frames[0], video.frames[-1], "a caption")
    (text, images), tokenizer = asked[0], chat.processor.tokenizer
    content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}]
    inputs = chat.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        **{"tokenize": True, "add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"},
    )
    reply = torch.tensor([tokenizer(f"{answer}<|im_end|>")["input_ids"]])
    length = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], reply], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, reply.shape[1]))
    labels = inputs["input_ids"].clone()
    labels[:, :length] = -100
    tiny.teach(chat.model, inputs, labels)
    return vlm


def test_qwen_answers_with_an_instruction(qwen, video):
    got = qwen.instruct(video.frames[0], video.frames[-1], "a caption")
    assert (got.instruction, got.objects) == (ANSWER["instruction"], ("the circle",))
    assert qwen.counts["retried"] == qwen.counts["refused"] == 0
    assert qwen.name.endswith("qwen")


def test_an_untaught_qwen_is_refused_and_counted(folder, video):
    chat = untaught(folder)
    vlm = VisionLanguageAnnotator(chat, attempts=2)
    state = torch.random.get_rng_state()
    with pytest.raises(Refused, match="no usable answer in 2 attempts; it is not JSON"):
        vlm.judge(video.frames, video.frames, "Paint it.")
    assert vlm.counts == {"asked": 1, "retried": 1, "refused": 1}
    assert torch.equal(state, torch.random.get_rng_state())
    assert chat.reply("What is it?", [], None, 3) == chat.reply("What is it?", [], None, 3)


def untaught(folder, **options) -> LocalChat:
    """A tiny Qwen2.5-VL that says anything, and stops now and then."""
    chat = LocalChat.from_pretrained(str(tiny.qwen_vl(folder / "untaught", ["red"])), **options)
    chat.model.generation_config.eos_token_id = list(range(0, chat.model.config.text_config.vocab_size, 4))
    return chat


def test_another_seed_gives_another_answer_whatever_the_model_settings_are(folder):
    chat = untaught(folder)
    chat.model.generation_config.top_k = 1  # as published with Qwen2.5-VL
    assert len({chat.reply("What is it?", [], None, seed) for seed in range(4)}) > 1


def test_a_model_that_does_not_come_to_an_end_is_cut_off(folder, video):
    chat = untaught(folder, max_new_tokens=6)
    chat.model.generation_config.eos_token_id = None
    with pytest.raises(Refused, match="in 2 attempts; it was longer than 6 tokens"):
        VisionLanguageAnnotator(chat, attempts=2).caption(video.frames)


def test_grounding_dino(folder, video):
    grounder = load_grounder(str(tiny.grounding_dino(folder / "dino")))
    assert isinstance(grounder, GroundingDino)
    grounder.threshold = 0.0
    found = grounder.ground(video.frames[0], "The red circle")
    assert found and [d.score for d in found] == sorted((d.score for d in found), reverse=True)
    assert all(0 <= d.box[0] < d.box[2] <= 64 and 0 <= d.box[1] < d.box[3] <= 48 for d in found)
    assert all("[" not in d.label and d.label for d in found)
    grounder.threshold = 1.1
    assert grounder.ground(video.frames[0], "the red circle") == []


@pytest.mark.parametrize(
    ("phrase", "labels", "kept"),
    [
        ("The red circle", ["red circle", "circle", "red"], ["red circle", "circle"]),
        ("the front wheel of the car", ["the car", "wheel"], ["wheel"]),
        ("the dog's collar", ["the dog ' s"], []),
        ("the man in a black jacket", ["man", "a black jacket", "black"], ["man"]),
        ("a tall building behind the man", ["building", "man"], ["building"]),
        ("the running man holding a cup", ["man", "cup"], ["man"]),
        ("the man and the dog in the car", ["man", "dog", "car"], ["man", "dog"]),
        ("a red and white car", ["red and white car", "white"], ["red and white car"]),
        ("a pair of shoes", ["shoes"], ["shoes"]),
        ("two bowls of fruit", ["bowls of fruit", "fruit"], ["bowls of fruit"]),
        ("the skateboarder", ["skate ##board"], ["skate ##board"]),
        ("the T-shirt.", ["t - shirt"], ["t - shirt"]),
    ],
)
def test_boxes_of_other_words_of_a_phrase_are_left_out(folder, video, monkeypatch, phrase, labels, kept):
    """A detector finds whatever a text names, such as the car of "the front wheel of the car"."""
    grounder = GroundingDino.from_pretrained(str(tiny.grounding_dino(folder / "dino")))
    count = len(labels)
    found = {"boxes": torch.tensor([[1.0, 2.0, 30.0, 40.0]] * count), "scores": torch.linspace(0.9, 0.5, count)}
    told = [found | {"text_labels": labels}]
    monkeypatch.setattr(grounder.processor, "post_process_grounded_object_detection", lambda *_, **__: told)
    assert [detection.label for detection in grounder.ground(video.frames[0], phrase)] == kept


def test_florence_2_reads_its_boxes(folder, video):
    grounder = load_grounder(str(tiny.florence2(folder / "florence")))
    assert isinstance(grounder, Florence2)
    grounder.max_new_tokens, grounder.num_beams = 12, 1
    processor = grounder.processor
    inputs = processor(images=video.frames[0], text="<CAPTION_TO_PHRASE_GROUNDING>the red circle", return_tensors="pt")
    words = "the red circle<loc_0><loc_250><loc_499><loc_999></s>"
    labels = torch.tensor([processor.tokenizer(words, add_special_tokens=False)["input_ids"]])
    tiny.teach(grounder.model, inputs, labels)
    grounder.model.eval()
    (found,) = grounder.ground(video.frames[0], "the red circle")
    assert found.label == "the red circle" and found.score == 1.0
    assert np.allclose(found.box, (0, 12, 31, 47), atol=1)


def test_sam_2_segments_and_tracks(folder, video):
    segmenter = Sam2.from_pretrained(str(tiny.sam2(folder / "sam2")))
    boxes = [(2.0, 3.0, 30.0, 40.0), (40.0, 5.0, 60.0, 20.0)]
    tracks = segmenter.track(video.frames, boxes)
    assert tracks.dtype == bool and tracks.shape == (2, 4, 48, 64) and 0 < tracks.mean() < 1
    assert np.array_equal(segmenter.segment(video.frames[0], boxes), tracks[:, 0])
    assert np.array_equal(segmenter.track(video.frames, boxes[::-1]), tracks[::-1])
    assert segmenter.track(video.frames, []).shape == (0, 4, 48, 64)


@pytest.mark.parametrize(("kind", "far"), [("relative", -1), ("metric", 1)])
def test_depth_anything(folder, video, kind, far):
    estimator = DepthAnything.from_pretrained(str(tiny.depth_anything(folder / kind, kind)))
    depth = estimator.depth(video.frames[0])
    assert depth.dtype == np.uint16 and depth.shape == (48, 64) and depth.min() == 0 and depth.max() == 65535
    raw = estimator._predict(video.frames[0])
    both = np.stack([raw, estimator._predict(video.frames[1])])
    for got, values in ((depth, raw), (estimator.depths(video.frames[:2]), both)):
        expected = (far * values - (far * values).min()) / np.ptp(values) * 65535
        assert np.abs(got - expected).max() <= 0.51


def test_what_is_far_is_white_whatever_the_depth_model_tells(folder, video):
    """Not all configurations say whether it is distances or their inverse."""
    estimator = DepthAnything.from_pretrained(str(tiny.glpn(folder / "glpn")))
    metres = estimator._predict(video.frames[0])
    depth = estimator.depth(video.frames[0])
    assert depth.shape == metres.shape == (48, 64) and np.ptp(metres) > 0
    assert depth.flat[metres.argmax()] == 65535 and depth.flat[metres.argmin()] == 0
    configs = [DPTConfig(), DPTConfig(add_projection=True), DepthAnythingConfig()]
    configs += [AutoConfig.for_model(kind) for kind in ("depth_pro", "zoedepth", "glpn")]
    models = [SimpleNamespace(config=config) for config in configs]
    told = [DepthAnything(model, None, "any").metric for model in models]
    assert told == [False, True, False, True, True, True]


def test_vit_pose_draws_where_persons_are(folder, video):
    names = {"source": str(tiny.vit_pose(folder / "pose")), "persons": str(tiny.person_detector(folder / "persons"))}
    pose = VitPose.from_pretrained(**names, threshold=0.0).pose(video.frames[0])
    assert pose.dtype == np.uint8 and pose.shape == (48, 64, 3) and pose.any()
    assert not VitPose.from_pretrained(**names, threshold=1.0).pose(video.frames[0]).any()
    names["persons"] = str(tiny.person_detector(folder / "cats", "cat"))
    with pytest.raises(ValueError, match="no label 'person'"):
        VitPose.from_pretrained(**names)


def test_canny_finds_the_outline():
    image = np.zeros((32, 32, 3), np.uint8)
    image[8:24, 8:24] = 255
    edge = Canny().edge(image)
    assert edge.dtype == np.uint8 and set(np.unique(edge)) == {0, 255}
    assert edge[6:10].any() and not edge[12:20, 12:20].any() and not edge[:5].any()
    with pytest.raises(ValueError, match="low <= high"):
        Canny(200, 100)


def test_models_that_cannot_be_loaded(folder, tmp_path):
    with pytest.raises(ValueError, match=r"cannot load '.*nothing'"):
        load_grounder(str(tmp_path / "nothing"))
    depth = tiny.depth_anything(tmp_path / "depth")
    with pytest.raises(ValueError, match="cannot load"):
        GroundingDino.from_pretrained(str(depth))
    (depth / "model.safetensors").rename(depth / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot load"):
        DepthAnything.from_pretrained(str(depth))
    half = tiny.depth_anything(tmp_path / "half")
    from safetensors.torch import load_file, save_file

    weights = load_file(half / "model.safetensors")
    dropped = next(name for name in weights if name.startswith("head"))
    save_file({k: v for k, v in weights.items() if k != dropped}, half / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 weights of DepthAnything"):
        DepthAnything.from_pretrained(str(half))


# --- the oracle


@pytest.fixture(scope="module")
def worlds() -> list[WorldVideo]:
    return [WorldVideo(seed, (40, 48), 5) for seed in range(12)]


@pytest.fixture(scope="module")
def truth(worlds) -> Annotators:
    return annotators_of(Oracle(worlds))


def test_oracle_masks_and_depth_equal_the_truth(worlds, truth):
    for video in worlds:
        objects = truth.captioner.objects(video.frames, "")
        visible = video.masks[0].any(axis=(1, 2))
        assert len(objects) == visible.sum()
        boxes = [truth.grounder.ground(video.frames[0], phrase)[0].box for phrase in objects]
        tracks = truth.segmenter.track(video.frames, boxes)
        assert np.array_equal(tracks, video.masks.transpose(1, 0, 2, 3)[visible])
        assert np.array_equal(truth.segmenter.segment(video.frames[3], boxes[:0]), np.zeros((0, 40, 48), bool))
        for time_, frame in enumerate(video.frames):
            assert np.array_equal(truth.depth.depth(frame), depth16(video.depth[time_]))
        assert np.array_equal(truth.depth.depths(video.frames), depth16(video.depth))


def test_oracle_depth_is_on_the_worlds_scale(worlds):
    depth = worlds[0].depth[0]
    low, high = DEPTH_RANGE
    assert np.abs(depth16(depth) / 65535 * (high - low) + low - depth).max() < 1e-3
    assert np.abs(depth16(depth) / 257 - encode_depth(depth)[..., 0]).max() <= 0.51
    assert list(depth16(np.array([[low, high]]))[0]) == [0, 65535]


def test_oracle_captions_and_instructions(worlds, truth):
    for video in worlds:
        frames = video.frames
        assert truth.captioner.caption(frames) == video.caption
        assert truth.captioner.caption(frames[0]) == video.caption.split(";")[0]
        told = truth.instructor.instruct(frames[0], frames[-1], video.caption)
        back = truth.instructor.instruct(frames[-1], frames[0], video.caption)
        assert (told.instruction, told.reverse) == (back.reverse, back.instruction)
        movers = [t.name for t, m in zip(video.scene.things, video.motions, strict=True) if m.verb != "stays"]
        assert told.objects == tuple(f"the {name}" for name in movers)
        assert all(name in told.instruction for name in movers)
    with pytest.raises(ValueError, match="give two different ones"):
        truth.instructor.instruct(frames[0], frames[0], "")
    with pytest.raises(ValueError, match="not of one video"):
        truth.instructor.instruct(worlds[0].frames[0], frames[0], "")
    with pytest.raises(ValueError, match="knows no frame"):
        truth.depth.depth(255 - frames[0])


def test_oracle_says_moves_as_they_are():
    video = next(v for v in (WorldVideo(s, num_frames=3, movers=1) for s in range(99)) if "moves up" in v.caption)
    name = next(t.name for t, m in zip(video.scene.things, video.motions, strict=True) if m.verb == "moves up")
    told = annotators_of(Oracle([video])).instructor.instruct(video.frames[0], video.frames[2], "")
    assert (told.instruction, told.reverse) == (f"Move the {name} up.", f"Move the {name} down.")


def test_oracle_judges_by_the_true_outcome(worlds, truth):
    oracle = truth.judge
    for video in worlds:
        frames = video.frames
        asked = oracle.video_instruction(frames, video.caption)
        edited = np.stack([oracle.edited(frame) for frame in frames])
        assert oracle.judge(frames, edited, asked.video_instruction) == dict.fromkeys(CRITERIA, 1.0)
        undone = oracle.judge(frames, frames, asked.video_instruction)
        assert undone["source_fidelity"] == 1.0
        if (edited != frames).any():
            assert undone["instruction_fidelity"] < 0.95 and undone["visual_quality"] < 1.0
        assert oracle.judge(frames, edited, "Do something else.")["instruction_fidelity"] == 0.0
        spoiled = oracle.judge(frames, 255 - edited, asked.video_instruction)
        assert spoiled["source_fidelity"] < 0.9
        told = oracle.instruct(frames[0], frames[4], "").instruction
        assert oracle.judge(frames[0], frames[4], told)["instruction_fidelity"] == 1.0
        assert oracle.judge(frames[4], frames[0], told)["instruction_fidelity"] == 0.0
        seen = next((t for t in range(5) if (edited[t] != frames[t]).any()), None)
        if seen is not None:
            there = oracle.instruct(frames[seen], edited[seen], "")
            back = oracle.instruct(edited[seen], frames[seen], "")
            assert there.instruction == back.reverse == asked.key_frame_instruction
            assert there.reverse == back.instruction != there.instruction
        words = asked.key_frame_instruction.rstrip(".").split()
        assert (words[-1], words[-2]) not in UNSEEN_PAIRS


def test_oracle_reads_videos_from_files(tmp_path):
    written = list(world_videos(5, 6, (32, 32), photo_share=0.5))
    for number, video in enumerate(written):
        write_video(video, tmp_path, f"world-{number}")
    assert len({video.scene.photo is None for video in written}) == 2
    read = [read_world_video(path) for path in sorted(tmp_path.glob("*.json"))]
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(read, written, strict=True))
    loaded = choose.load_annotators({"captioner": "oracle", "depth": "oracle"}, videos=sorted(tmp_path.glob("*.mkv")))
    assert loaded.captioner is loaded.depth and loaded.captioner.caption(written[3].frames) == written[3].caption
    told = json.loads((tmp_path / "world-0.json").read_text())
    (tmp_path / "world-0.json").write_text(json.dumps(told | {"seed": told["seed"] + 1}))
    with pytest.raises(ValueError, match="another version of the world"):
        read_world_video(tmp_path / "world-0.json")
    (tmp_path / "world-0.json").write_text("{}")
    with pytest.raises(ValueError, match="does not describe"):
        read_world_video(tmp_path / "world-0.json")


def test_oracle_goes_to_other_processes(worlds):
    oracle = Oracle(worlds)
    oracle.caption(worlds[2].frames)
    again = pickle.loads(pickle.dumps(oracle))
    assert [again.caption(v.frames) for v in worlds] == [v.caption for v in worlds]


# --- boxes, bundles and command lines


def test_boxes():
    mask = np.zeros((10, 12), bool)
    mask[2:5, 3:9] = True
    assert bounding_box(mask) == (3, 2, 9, 5)
    with pytest.raises(ValueError, match="empty mask"):
        bounding_box(mask & False)
    assert overlap((0, 0, 4, 4), (2, 0, 6, 4)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 4, 4), (4, 4, 6, 6)) == 0
    assert clipped((-2, 1, 5, 40), (10, 12)) == (0, 1, 5, 10) and clipped((20, 0, 30, 4), (10, 12)) is None


def test_frames_are_of_one_size():
    image = np.zeros((4, 5, 3), np.uint8)
    assert len(sequence(image)) == 1 and len(sequence([image, image])) == 2
    for wrong in ([], [image, image[:2]]):
        with pytest.raises(ValueError, match="one size"):
            sequence(wrong)


def test_annotators_tell_their_names_and_what_is_missing(truth):
    some = Annotators(edge=Canny(), depth=truth.depth)
    assert some.names == {"depth": "oracle", "edge": "canny:100,200"}
    some.require("edge", "depth")
    with pytest.raises(ValueError, match="no annotator for captioner, segmenter; give --captioner, --segmenter"):
        some.require("edge", "captioner", "segmenter")


def test_specs_of_a_command_line(server, video):
    spec = f"endpoint:{server.url}#org/model"
    loaded = choose.load_annotators({"captioner": spec, "judge": spec, "edge": "default", "pose": "none"})
    assert loaded.pose is None
    assert loaded.captioner is loaded.judge and loaded.edge.name == "canny:100,200"
    server.answers = ["A star."]
    assert loaded.captioner.caption(video.frames) == "A star."
    assert server.requests[0]["model"] == "org/model"
    assert choose.load_annotators({"edge": "canny:5,10"}).edge.name == "canny:5,10"


@pytest.mark.parametrize(
    ("part", "spec", "message"),
    [
        ("captoner", "none", "unknown annotator 'captoner'"),
        ("captioner", "endpoint:http://a/v1", "endpoint:URL#MODEL"),
        ("captioner", "endpoint:a#b", "starts with http"),
        ("edge", "canny:1", "two thresholds"),
        ("edge", "sobel", "canny or canny:LOW,HIGH"),
        ("depth", "oracle", "needs videos of the world"),
        ("depth", "no/such-model", "cannot load 'no/such-model'"),
    ],
)
def test_wrong_specs_are_told(part, spec, message):
    with pytest.raises(ValueError, match=message):
        choose.load_annotators({part: spec})


def test_the_oracle_answers_several_threads():
    """One that asks while another's video is still being rendered waits for it."""
    videos = [WorldVideo(seed, (24, 32), num_frames=6) for seed in range(8)]
    frames = [frame for video in videos for frame in video.frames][::-1]
    for _ in range(3):
        oracle = Oracle(videos)
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(oracle.find, frames))  # raises for a frame that it does not know
