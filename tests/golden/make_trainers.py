"""Adapters in the folders that trainers leave: what TRL's SFTTrainer wrote, and what Unsloth writes.

Run after make_models.py, in this folder, with requirements.txt and trl==1.13.0 installed:  python make_trainers.py
`trl-sft` is the output of a run of two steps with its last checkpoint, as TRL left it; of files that Python pickles, which
nobody reads here, the names alone are kept. Unsloth trains on GPUs only, so its folders are made by PEFT, through which it
saves, with the configs that its sources give PEFT (unsloth/models/llama.py and vision.py, unsloth_zoo/peft_utils.py and
hf_utils.py of August 2026): the expression for target_modules, auto_mapping, and the name of a base in four bits.
`<name>.expected.safetensors` holds input_ids [2, 12] and logits [2, 12, 64].
"""

import json
import pathlib
import shutil

import torch
from datasets import Dataset
from make_curves import load
from make_peft import shaken
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

torch.set_num_threads(1)

LEAVES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def expect(model, name):
    torch.manual_seed(9)
    ids = torch.randint(0, 64, (2, 12))
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    save_file({"input_ids": ids, "logits": logits.float().contiguous()}, f"{name}.expected.safetensors")


def make_trl(name):
    shutil.rmtree(name, ignore_errors=True)
    vocab = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3} | {f"w{i}": i for i in range(4, 64)}
    words = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    rows = [{"prompt": f"w{4 + i} w{9 + i}", "completion": f" w{20 + i} w{30 + i}"} for i in range(8)]
    trainer = SFTTrainer(
        model=load("llama-tiny"),
        args=SFTConfig(output_dir=name, max_steps=2, per_device_train_batch_size=2, save_steps=2, learning_rate=1e-2,
                       report_to=[], use_cpu=True, bf16=False),
        train_dataset=Dataset.from_list(rows),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=words, **special),
        peft_config=LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", target_modules="all-linear"),
    )
    trainer.train()
    trainer.save_model()
    expect(trainer.model, name)
    for path in pathlib.Path(name).rglob("*"):
        if path.suffix in (".bin", ".pt", ".pth", ".md"):  # pickles, and a model card of blanks
            path.write_bytes(b"")


# As configs of Unsloth spell the attention and MLP of a model's language layers.
KINDS = "self_attn|attention|attn|mixer|mlp|feed_forward|ffn|dense|mixer"
EXPRESSION = (rf"(?:.*?(?:language|text).*?(?:{KINDS}).*?(?:{'|'.join(LEAVES)}))|"
              rf"(?:\bmodel\.layers\.[\d]{{1,}}\.(?:{KINDS})\.(?:(?:{'|'.join(LEAVES)})))")


def make_unsloth(name, base="llama-tiny", dtype=torch.float32, embeddings="auto", **config):
    torch.manual_seed(7)
    options = LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, lora_dropout=0, **config)
    model = shaken(get_peft_model(load(base), options), False)
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            parameter.data = parameter.data.to(dtype)
    made = model.peft_config["default"]
    made.auto_mapping = {"base_model_class": "LlamaForCausalLM", "unsloth_fixed": True,
                         "parent_library": "transformers.models.llama.modeling_llama"}
    made.base_model_name_or_path = "unsloth/llama-tiny-unsloth-bnb-4bit"
    model.save_pretrained(name, save_embedding_layers=embeddings)
    pathlib.Path(name, "README.md").unlink()
    expect(model.float(), name)
    print(name, json.loads(pathlib.Path(name, "adapter_config.json").read_text())["target_modules"])


def main():
    make_trl("trl-sft")
    make_unsloth("unsloth-expression", dtype=torch.bfloat16, target_modules=EXPRESSION)
    make_unsloth("unsloth-last-layer", target_modules=LEAVES, layers_to_transform=[1])
    # Continued pretraining: embeddings whole; the output layer by LoRA or, in other versions, whole too.
    make_unsloth("unsloth-pretraining", target_modules=["q_proj", "lm_head"], modules_to_save=["embed_tokens"])
    make_unsloth("unsloth-pretraining-tied", base="llama-rope", target_modules=["v_proj", "lm_head"], modules_to_save=["embed_tokens"])
    make_unsloth("unsloth-pretraining-whole", target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    # As where tokens were added: the base's embeddings are in the file too, and the trained ones twice.
    make_unsloth("unsloth-embeddings", embeddings=True, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])


if __name__ == "__main__":
    main()
