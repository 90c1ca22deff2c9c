"""Tiny seeded models with the logits, loss and gradients that transformers gives them.

Run in this folder, with requirements.txt installed:  python make_models.py
Each folder is a checkpoint in the Hugging Face layout; `<folder>.expected.safetensors` holds, in float32 arithmetic,
input_ids and labels [2, n], logits [2, n, vocab], loss [] and, where the model is small, every gradient of the loss as
`grad.<name>`.
"""

import json
import pathlib

import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

torch.set_num_threads(1)
here = pathlib.Path(__file__).parent

LLAMA = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=64,
    attn_implementation="eager",
)


def seeded(model, seed):
    """Weights large enough that logits and gradients are far from trivial."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                centre = 1.0 if "norm" in name or "ln_" in name else 0.0
                parameter.copy_((centre if name.endswith("weight") else 0.0) + 0.1 * torch.randn(parameter.shape))
            else:
                parameter.copy_(torch.randn(parameter.shape) / parameter.shape[-1] ** 0.5)
    return model.float().eval()


def batch(length, vocab=64, seed=5):
    torch.manual_seed(seed)
    ids = torch.randint(0, vocab, (2, length))
    labels = ids.clone()
    labels[0, : length // 3] = -100
    labels[1, length // 2 : length // 2 + 2] = -100
    return ids, labels


def expected(model, name, length=12, gradients=True):
    ids, labels = batch(length)
    out = model(input_ids=ids, labels=labels)
    tensors = {"input_ids": ids, "labels": labels, "logits": out.logits.detach(), "loss": out.loss.detach()}
    if gradients:
        out.loss.backward()
        tensors |= {f"grad.{n}": p.grad for n, p in model.named_parameters()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, here / f"{name}.expected.safetensors")


def main():
    llama = seeded(LlamaForCausalLM(LlamaConfig(**LLAMA, tie_word_embeddings=False)), 0)
    llama.save_pretrained(here / "llama-tiny")
    expected(llama, "llama-tiny")

    # Half precision on disk, several shards, tied embeddings, biases everywhere, Llama 3 rope scaling.
    scaling = dict(
        rope_type="llama3",
        rope_theta=10000.0,
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=16,
    )
    config = LlamaConfig(
        **LLAMA, tie_word_embeddings=True, attention_bias=True, mlp_bias=True, rope_parameters=scaling
    )
    seeded(LlamaForCausalLM(config), 1).bfloat16().save_pretrained(here / "llama-rope", max_shard_size="24KB")
    # Read anew: casting the model itself would round the rotary frequencies too.
    rope = LlamaForCausalLM.from_pretrained(here / "llama-rope", dtype=torch.float32, attn_implementation="eager")
    expected(rope, "llama-rope", length=40, gradients=False)

    # The same weights under the other scalings; only config.json differs.
    others = {
        "linear": dict(rope_type="linear", rope_theta=10000.0, factor=4.0),
        "dynamic": dict(rope_type="dynamic", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=16),
        "yarn": dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=16),
    }
    for kind, parameters in others.items():
        longest = 16 if kind == "dynamic" else 64
        sizes = LLAMA | {"max_position_embeddings": longest}
        config = LlamaConfig(
            **sizes, tie_word_embeddings=True, attention_bias=True, mlp_bias=True, rope_parameters=parameters
        )
        model = LlamaForCausalLM(config).float().eval()
        model.load_state_dict(rope.state_dict())
        (here / f"llama-rope.{kind}.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
        expected(model, f"llama-rope.{kind}", length=40, gradients=False)

    config = GPT2Config(
        vocab_size=64, n_positions=64, n_embd=32, n_layer=2, n_head=4, attn_implementation="eager",
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )
    gpt2 = seeded(GPT2LMHeadModel(config), 2)
    gpt2.save_pretrained(here / "gpt2-tiny")
    expected(gpt2, "gpt2-tiny")


if __name__ == "__main__":
    main()
