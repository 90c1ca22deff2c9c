"""Tiny seeded models with settings that are rare, and transformers' outputs.

Run in this folder, with requirements.txt installed:  python make_config_models.py
`config-models/<name>` is a checkpoint; `config-models/<name>.expected.safetensors` what it reads and gives (`output`).
"""

import json
import os
import pathlib
import shutil

import torch
import transformers as hf
from safetensors.torch import save_file

torch.set_num_threads(1)
os.chdir(pathlib.Path(__file__).parent)
folder = pathlib.Path("config-models")

T5 = dict(vocab_size=40, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=4, relative_attention_num_buckets=8,
          relative_attention_max_distance=12, dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
NEOX = dict(vocab_size=40, intermediate_size=24, num_hidden_layers=1, max_position_embeddings=32)
VIT = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=4, num_labels=3)
neox = lambda **more: (hf.GPTNeoXForCausalLM, hf.GPTNeoXConfig(**NEOX, **more))
t5 = lambda **more: (hf.T5ForConditionalGeneration, hf.T5Config(**T5, **more))
vit = lambda **more: (hf.ViTForImageClassification, hf.ViTConfig(**VIT, **more))

MODELS = {
    "neox-rotary-3": neox(hidden_size=48, num_attention_heads=4, rotary_pct=0.25),
    "neox-rotary-5": neox(hidden_size=40, num_attention_heads=4, rotary_pct=0.5),
    "t5-gated-silu": t5(feed_forward_proj="gated-silu"),
    "t5-gated-relu": t5(feed_forward_proj="gated-relu"),
    "t5-gelu": t5(feed_forward_proj="gelu"),
    "t5-untied-without-head": t5(feed_forward_proj="relu"),
    "t5-untied-without-scale": t5(feed_forward_proj="relu"),
    "vit-pair": vit(image_size=[30, 30], patch_size=10),
    "vit-no-multiple": vit(image_size=[30, 30], patch_size=8),
    "vit-no-multiple-number": vit(image_size=17, patch_size=4),
}


def reads(name, config):
    torch.manual_seed(5)
    if name.startswith("vit"):
        side = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
        return {"pixel_values": torch.randn(2, 3, side, side)}
    ids = torch.randint(3, 40, (2, 12))
    if name.startswith("neox"):
        return {"input_ids": ids}
    mask = torch.ones_like(ids)
    ids[1, 8:], mask[1, 8:] = 0, 0
    decoder = torch.cat([torch.zeros(2, 1, dtype=torch.long), torch.randint(2, 40, (2, 6))], 1)
    return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": decoder}


def main():
    shutil.rmtree(folder, ignore_errors=True)
    for seed, (name, (make, config)) in enumerate(MODELS.items(), start=80):
        torch.manual_seed(seed)
        model = make(config)
        with torch.no_grad():
            for key, p in model.named_parameters():
                norm = "norm" in key.lower() and key.endswith("weight")
                p.copy_((1.0 if norm else 0.0) + torch.randn(p.shape) * (0.1 if p.ndim < 2 else p.shape[-1] ** -0.5))
        model.save_pretrained(folder / name)
        (folder / name / "generation_config.json").unlink(missing_ok=True)
        if "untied" in name:  # transformers ties it all the same
            path = folder / name / "config.json"
            changed = json.loads(path.read_text()) | {"tie_word_embeddings": False}
            if "scale" in name:
                changed.pop("scale_decoder_outputs", None)
            path.write_text(json.dumps(changed, indent=2))
        model = make.from_pretrained(folder / name, attn_implementation="eager").eval()
        inputs = reads(name, config)
        with torch.no_grad():
            output = model(**inputs).logits
        save_file(inputs | {"output": output.contiguous()}, folder / f"{name}.expected.safetensors")


if __name__ == "__main__":
    main()
