"""Random models of the annotators' real classes, small enough for tests, saved as folders with their processors."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    BartConfig,
    BertConfig,
    BertTokenizer,
    CLIPImageProcessor,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    GLPNConfig,
    GLPNForDepthEstimation,
    GLPNImageProcessor,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    ResNetConfig,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessor,
    Sam2ImageProcessor,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam2VideoProcessor,
    Sam2VideoVideoProcessor,
    SwinConfig,
    VitPoseConfig,
    VitPoseForPoseEstimation,
    VitPoseImageProcessor,
)

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer(special: list[str], texts: list[str], size: int = 400) -> Tokenizer:
    """Byte-level BPE that can spell anything and has words of these texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save(folder: Path, model, processor) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def qwen_vl(folder: Path, texts: list[str]) -> Path:
    """Qwen2.5-VL; texts: whose words its tokenizer knows."""
    torch.manual_seed(0)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    special += ["<|image_pad|>", "<|video_pad|>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(special, texts),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=special[1:],
    )
    ids = {word: tokenizer.convert_tokens_to_ids(word) for word in special}
    config = Qwen2_5_VLConfig(
        text_config={
            **{"vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2},
            **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096},
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
            **{"bos_token_id": None, "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]},
        },
        vision_config={
            **{"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64},
            **{"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [0]},
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112}),
        tokenizer,
        Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )
    return save(folder, Qwen2_5_VLForConditionalGeneration(config), processor)


def grounding_dino(folder: Path) -> Path:
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "the", "red", "circle", "blue", "star"]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=64,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2],
            window_size=4,
            out_indices=[2, 3, 4],
        ),
        text_config=BertConfig(
            vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        ),
        **{"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 8, "num_feature_levels": 4},
        **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32},
        disable_custom_kernels=True,
    )
    images = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    return save(folder, GroundingDinoForObjectDetection(config), GroundingDinoProcessor(images, tokenizer))


def florence2(folder: Path) -> Path:
    torch.manual_seed(0)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<image>", *(f"<loc_{number}>" for number in range(1000))]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(special, ["the red circle"], 1300),
        **{"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
        extra_special_tokens={"image_token": "<image>"},
    )
    config = Florence2Config(
        text_config=BartConfig(
            **{"vocab_size": len(tokenizer), "d_model": 32, "encoder_layers": 1, "decoder_layers": 1},
            **{
                "encoder_attention_heads": 2,
                "decoder_attention_heads": 2,
                "encoder_ffn_dim": 32,
                "decoder_ffn_dim": 32,
            },
            **{"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2},
            **{"forced_eos_token_id": 2, "max_position_embeddings": 600},
        ).to_dict(),
        vision_config={
            **{"depths": [1, 1], "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1]},
            **{"patch_prenorm": [False, True], "embed_dim": [16, 32], "num_heads": [1, 2], "num_groups": [1, 2]},
            **{"window_size": 4, "projection_dim": 32},
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    images = CLIPImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False)
    images.image_seq_length = 8 * 8 + 1  # cells of the last stage, and one token for the whole
    model = Florence2ForConditionalGeneration(config)
    model.generation_config.decoder_start_token_id = 2
    parsing = {"phrase_grounding": {"banned_grounding_tokens": ["it"]}}
    return save(folder, model, Florence2Processor(images, tokenizer, post_processor_config=parsing))


def teach(model: torch.nn.Module, inputs: dict, labels: torch.Tensor) -> None:
    """Trains the model to answer these inputs with these labels, -100 for what is not asked."""
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(150):
        loss = model(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.01:
            return
    raise AssertionError(f"the tiny model has not learnt its answer, the loss is {loss.item():.3f}")


def sam2(folder: Path, **changes) -> Path:
    """changes: of the configuration."""
    torch.manual_seed(0)
    side = 64
    vision = AutoConfig.for_model(
        "sam2_vision_model",
        backbone_config={
            **{"model_type": "sam2_hiera_det_model", "image_size": [side, side], "hidden_size": 8},
            **{"blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64]},
            **{"num_attention_heads_per_stage": [1, 1, 2, 4], "window_size_per_stage": [4, 4, 4, 4]},
            **{"global_attention_blocks": [3], "window_positional_embedding_background_size": [4, 4]},
        },
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[side // 4] * 2, [side // 8] * 2, [side // 16] * 2],
        fpn_hidden_size=128,
    )
    config = Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 128, "image_size": side},
        # All other sizes of the decoder are fixed in the sam2 package.
        mask_decoder_config={"hidden_size": 128},
        image_size=side,
        **{"memory_attention_hidden_size": 128, "memory_attention_num_layers": 1},
        **{"memory_attention_feed_forward_hidden_size": 32, "memory_attention_rope_feat_sizes": [side // 16] * 2},
        **{"memory_encoder_hidden_size": 128, "memory_encoder_output_channels": 64, "mask_downsampler_embed_dim": 128},
        **{"memory_fuser_embed_dim": 128, "memory_fuser_intermediate_dim": 512, "memory_fuser_num_layers": 1} | changes,
    )
    model = Sam2VideoModel(config)
    with torch.no_grad():
        model.prompt_encoder.shared_embedding.load_state_dict(model.shared_image_embedding.state_dict())  # as published
        # It is sure to see the objects, and unsure where.
        model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(10.0)
        for parameter in model.mask_decoder.parameters():
            parameter.mul_(4.0)
    size = {"height": side, "width": side}
    processor = Sam2VideoProcessor(Sam2ImageProcessor(size=size), Sam2VideoVideoProcessor(size=size))
    return save(folder, model, processor)


def depth_anything(folder: Path, kind: str = "relative") -> Path:
    """kind: "relative" or "metric"."""
    torch.manual_seed(0)
    config = DepthAnythingConfig(
        backbone_config=Dinov2Config(
            **{"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 56},
            **{"patch_size": 14, "out_indices": [1, 2, 3, 4], "reshape_hidden_states": False},
        ),
        **{"reassemble_hidden_size": 32, "neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 8},
        **{"head_hidden_size": 8, "depth_estimation_type": kind},
    )
    images = DPTImageProcessor(size={"height": 56, "width": 56}, keep_aspect_ratio=True, ensure_multiple_of=14)
    return save(folder, DepthAnythingForDepthEstimation(config), images)


def glpn(folder: Path) -> Path:
    """A depth estimator that tells metres, up to 10."""
    torch.manual_seed(0)
    config = GLPNConfig(
        **{"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]},
        **{"decoder_hidden_size": 8, "mlp_ratios": [2, 2, 2, 2]},
    )
    return save(folder, GLPNForDepthEstimation(config), GLPNImageProcessor())


def vit_pose(folder: Path) -> Path:
    torch.manual_seed(0)
    backbone = AutoConfig.for_model(
        "vitpose_backbone",
        **{"image_size": [64, 48], "patch_size": [16, 16], "hidden_size": 32, "num_hidden_layers": 1},
        **{"num_attention_heads": 2, "out_indices": [1]},
    )
    labels = {number: f"point {number}" for number in range(17)}
    config = VitPoseConfig(backbone_config=backbone, id2label=labels, edges=[[0, 1], [1, 2], [5, 6]])
    return save(folder, VitPoseForPoseEstimation(config), VitPoseImageProcessor(size={"height": 64, "width": 48}))


def person_detector(folder: Path, label: str = "person") -> Path:
    """RT-DETR; label: the one thing that it knows."""
    torch.manual_seed(0)
    config = RTDetrConfig(
        backbone_config=ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 8, 16, 16],
            depths=[1, 1, 1, 1],
            out_features=["stage2", "stage3", "stage4"],
        ),
        **{"encoder_hidden_dim": 16, "encoder_in_channels": [8, 16, 16], "encoder_layers": 1, "encoder_ffn_dim": 16},
        **{"encoder_attention_heads": 2, "d_model": 16, "num_queries": 6, "decoder_in_channels": [16, 16, 16]},
        **{"decoder_ffn_dim": 16, "decoder_layers": 1, "decoder_attention_heads": 2, "num_denoising": 0},
        **{"id2label": {0: label}, "label2id": {label: 0}, "hidden_expansion": 0.5},
    )
    return save(folder, RTDetrForObjectDetection(config), RTDetrImageProcessor(size={"height": 64, "width": 64}))
