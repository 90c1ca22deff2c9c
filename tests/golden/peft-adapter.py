"""Writes peft-adapter/: a LoRA adapter of a tiny random Llama, as PEFT 0.21 saves it (torch 2.13, transformers 5.18).

Run in this folder: python peft-adapter.py
"""

import os

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
torch.set_num_threads(1)
config = LlamaConfig(
    vocab_size=11,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    name_or_path="tiny/llama",
)
lora = LoraConfig(
    r=4,
    lora_alpha=8,
    lora_dropout=0.25,
    target_modules=["q_proj", "down_proj"],
    task_type="CAUSAL_LM",
)
model = get_peft_model(LlamaForCausalLM(config), lora)
for name, parameter in model.named_parameters():
    if "lora_" in name:
        torch.nn.init.normal_(parameter)
model.save_pretrained("peft-adapter")
os.remove("peft-adapter/README.md")  # a model card of placeholders
