"""A LoRA changes nothing until trained, is saved alone, and comes back exactly."""

from __future__ import annotations

import json

import pytest
import torch

from unireal.config import get_model
from unireal.model.lora import CONFIG, WEIGHTS, add_lora, load_lora, merged, save_lora
from unireal.model.transformer import UniRealTransformer
from unireal.pipeline import UniRealPipeline


def model(**config) -> UniRealTransformer:
    torch.manual_seed(0)
    transformer = UniRealTransformer(**get_model("debug").transformer | {"text_embed_dim": 8} | config)
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return transformer


def answer(transformer: UniRealTransformer) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    frame, text = torch.randn(1, 3, 16, 24, generator=generator), torch.randn(1, 5, 8, generator=generator)
    return transformer([frame], torch.tensor([0.5]), text)[0]


def trained(folder, **options) -> UniRealTransformer:
    transformer = model()
    add_lora(transformer, rank=4, **options)
    parameters = [p for p in transformer.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    for _ in range(2):
        answer(transformer).square().mean().backward()
        optimizer.step()
    save_lora(transformer, folder)
    return transformer


@pytest.mark.parametrize("targets", [("to_q", "to_k", "to_v", "to_out.0"), ("ff.net.2", "proj_out")])
def test_round_trip(tmp_path, targets):
    adapted = trained(tmp_path / "lora", targets=targets, alpha=8)
    assert {f.name for f in (tmp_path / "lora").iterdir()} == {WEIGHTS, CONFIG}
    assert all(("lora_" in n) == p.requires_grad for n, p in adapted.named_parameters())
    other = model()
    before = answer(other)
    load_lora(other, tmp_path / "lora")
    assert torch.equal(answer(other), answer(adapted)) and not torch.allclose(answer(other), before)
    other.disable_adapters()
    assert torch.equal(answer(other), before)


def test_starts_neutral():
    transformer = model()
    before = answer(transformer)
    add_lora(transformer, rank=2)
    assert torch.equal(answer(transformer), before)


def test_merged_weights_need_no_adapter(tmp_path):
    adapted = trained(tmp_path / "lora")
    alone = merged(adapted)
    assert alone.state_dict().keys() == model().state_dict().keys() and merged(alone) is alone
    torch.testing.assert_close(answer(alone), answer(adapted))
    assert any("lora_" in name for name, _ in adapted.named_parameters())


def test_adapters_of_compiled_transformers(tmp_path):
    adapted = trained(tmp_path / "lora")
    compiled = torch.compile(model(), backend="eager")
    before = answer(compiled)
    load_lora(compiled, tmp_path / "lora")
    torch.testing.assert_close(answer(compiled), answer(adapted))
    save_lora(compiled, tmp_path / "again")
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (tmp_path / "lora" / WEIGHTS).read_bytes()
    compiled.unload_lora()
    torch.testing.assert_close(answer(compiled), before)


def test_a_pipeline_is_saved_with_its_adapters_merged(tmp_path, tiny_pipeline_folder):
    pipeline = UniRealPipeline.from_pretrained(tiny_pipeline_folder)
    add_lora(pipeline.transformer, rank=2)
    for name, parameter in pipeline.transformer.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    pipeline.save_pretrained(tmp_path / "merged")
    assert any("lora_" in name for name, _ in pipeline.transformer.named_parameters())
    frame, text = torch.randn(1, 3, 16, 24), torch.randn(1, 5, 32)
    loaded = UniRealPipeline.from_pretrained(tmp_path / "merged").transformer
    torch.testing.assert_close(*(t([frame], torch.tensor([0.5]), text)[0] for t in (loaded, pipeline.transformer)))


def test_an_adapter_is_there_when_it_is_complete(tmp_path, monkeypatch):
    trained(tmp_path / "lora")
    before, transformer = (tmp_path / "lora" / WEIGHTS).read_bytes(), model()
    add_lora(transformer, rank=2)

    def no_room(weights, path, metadata):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("unireal.model.lora.save_file", no_room)
    with pytest.raises(OSError, match="no space"):
        save_lora(transformer, tmp_path / "lora")
    assert (tmp_path / "lora" / WEIGHTS).read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "lora").iterdir()) == [CONFIG, WEIGHTS]


def test_bad_adapters(tmp_path):
    trained(tmp_path / "lora")
    with pytest.raises(ValueError, match="at least 1"):
        add_lora(model(), rank=0)
    with pytest.raises(ValueError, match="to_z"):
        add_lora(model(), rank=2, targets=["to_z"])
    with pytest.raises(ValueError, match="no LoRA"):
        save_lora(model(), tmp_path / "other")
    with pytest.raises(ValueError, match="or a shipped adapter: unireal-tiny-128"):
        load_lora(model(), tmp_path / "other")
    for config in ({"num_layers": 1}, {"num_layers": 3}, {"num_attention_heads": 4}):
        other = model(**config)
        before = answer(other)
        with pytest.raises(ValueError, match="another model"):
            load_lora(other, tmp_path / "lora")
        assert torch.equal(answer(other), before)
    twice = model()
    load_lora(twice, tmp_path / "lora")
    with pytest.raises(ValueError, match="already"):
        load_lora(twice, tmp_path / "lora")
    (tmp_path / "lora" / WEIGHTS).write_bytes(b"cut")
    with pytest.raises(ValueError, match="damaged"):
        load_lora(model(), tmp_path / "lora")
    (tmp_path / "lora" / CONFIG).write_text(json.dumps({"peft_type": "LORA"})[:-3])
    with pytest.raises(ValueError, match="damaged"):
        load_lora(model(), tmp_path / "lora")
