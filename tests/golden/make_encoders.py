"""Tiny seeded encoders, encoder-decoders and image classifiers, with transformers' outputs and PEFT's losses.

Run after make_models.py, in this folder, with requirements.txt installed:  python make_encoders.py
`encoders/<name>` is a checkpoint in the Hugging Face layout; `encoders/<name>.expected.safetensors` holds what the
model reads and what it gives. Where there is a head, `encoders/<name>.curve.safetensors` holds ten steps of LoRA on all
linear layers with the head trained whole: the batches, the initial trainable tensors as `initial.<name>`, losses and
gradient norms; and `encoders/<name>.adapter` the adapter after them, as PEFT writes it. Losses of several labels and of
several scores are those that transformers' own classes compute; `encoders/<name>.gradients.safetensors` holds such a loss
with the gradient of every weight as `gradient.<name>`.
"""

import os
import pathlib
import shutil

import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

torch.set_num_threads(1)
os.chdir(pathlib.Path(__file__).parent)
folder = pathlib.Path("encoders")

BERT = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=40, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
ROBERTA = {**BERT, "type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "layer_norm_eps": 1e-5}
DEBERTA = {**BERT, "type_vocab_size": 0, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "pooler_dropout": 0.0,
           "norm_rel_ebd": "layer_norm", "position_biased_input": False, "share_att_key": True, "position_buckets": 8,
           "pooler_hidden_size": 32, "max_relative_positions": -1}
T5 = dict(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, relative_attention_num_buckets=8,
          relative_attention_max_distance=12, dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
LABELS = {"id2label": {0: "sad", 1: "calm", 2: "glad"}, "label2id": {"sad": 0, "calm": 1, "glad": 2}}
SCORE = {"num_labels": 1, "problem_type": "regression"}
SEVERAL = {**LABELS, "problem_type": "multi_label_classification"}
SCORES = {"num_labels": 3, "problem_type": "regression"}
VIT = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=4,
           hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)

MODELS = {
    "bert-sequence": ("SEQ_CLS", hf.BertForSequenceClassification, hf.BertConfig(**BERT, **LABELS)),
    "bert-regression": ("SEQ_CLS", hf.BertForSequenceClassification, hf.BertConfig(**BERT, **SCORE)),
    "bert-token": ("TOKEN_CLS", hf.BertForTokenClassification, hf.BertConfig(**BERT, **LABELS)),
    "bert-base": (None, hf.BertModel, hf.BertConfig(**BERT)),
    "roberta-sequence": ("SEQ_CLS", hf.RobertaForSequenceClassification, hf.RobertaConfig(**ROBERTA, **LABELS)),
    "roberta-token": ("TOKEN_CLS", hf.RobertaForTokenClassification, hf.RobertaConfig(**ROBERTA, **LABELS)),
    "deberta-sequence": ("SEQ_CLS", hf.DebertaV2ForSequenceClassification, hf.DebertaV2Config(**DEBERTA, **LABELS)),
    "deberta-token": ("TOKEN_CLS", hf.DebertaV2ForTokenClassification, hf.DebertaV2Config(**DEBERTA, **LABELS)),
    "deberta-absolute": (None, hf.DebertaV2Model, hf.DebertaV2Config(**{
        **DEBERTA, "share_att_key": False, "position_buckets": -1, "position_biased_input": True, "type_vocab_size": 2,
        "norm_rel_ebd": "none"})),
    "vit-image": (None, hf.ViTForImageClassification, hf.ViTConfig(**VIT, **LABELS)),
    "t5": (None, hf.T5ForConditionalGeneration, hf.T5Config(**T5)),
    "t5-gated": (None, hf.T5ForConditionalGeneration, hf.T5Config(
        **T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)),
    "bert-multi-label": ("SEQ_CLS", hf.BertForSequenceClassification, hf.BertConfig(**BERT, **SEVERAL)),
    "bert-scores": ("SEQ_CLS", hf.BertForSequenceClassification, hf.BertConfig(**BERT, **SCORES)),
    "roberta-multi-label": ("SEQ_CLS", hf.RobertaForSequenceClassification, hf.RobertaConfig(**ROBERTA, **SEVERAL)),
    "roberta-scores": ("SEQ_CLS", hf.RobertaForSequenceClassification, hf.RobertaConfig(**ROBERTA, **SCORES)),
    "deberta-multi-label": ("SEQ_CLS", hf.DebertaV2ForSequenceClassification, hf.DebertaV2Config(**DEBERTA, **SEVERAL)),
    "deberta-scores": ("SEQ_CLS", hf.DebertaV2ForSequenceClassification, hf.DebertaV2Config(**DEBERTA, **SCORES)),
    "vit-multi-label": (None, hf.ViTForImageClassification, hf.ViTConfig(**VIT, **SEVERAL)),
}


def seeded(make, config, seed):
    torch.manual_seed(seed)
    model = make._from_config(config, attn_implementation="eager") if hasattr(make, "_from_config") else make(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            norm = "norm" in name.lower() and name.endswith("weight")
            p.copy_((1.0 if norm else 0.0) + torch.randn(p.shape) * (0.1 if p.ndim < 2 else p.shape[-1] ** -0.5))
    model.tie_weights()
    return model.eval()


def batch(name, config, seed, rows=3):
    """What a model reads: rows of uneven length, and labels for them."""
    torch.manual_seed(seed)
    several = lambda: torch.randn(rows, 3) if "scores" in name else torch.randint(0, 2, (rows, 3)).float()
    if name.startswith("vit"):
        pixels = {"pixel_values": torch.randn(rows, 3, 16, 16)}
        return pixels, several() if "multi-label" in name else torch.randint(0, 3, (rows,))
    ids = torch.randint(3, 64, (rows, 20))
    mask = torch.ones_like(ids)
    for row in range(rows):
        length = 20 - 5 * row
        ids[row, length:], mask[row, length:] = config.pad_token_id or 0, 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if getattr(config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = torch.randint(0, 2, ids.shape) * mask
    if name.startswith("t5"):
        inputs["decoder_input_ids"] = torch.cat([torch.zeros(rows, 1, dtype=torch.long), torch.randint(2, 64, (rows, 8))], 1)
        return inputs, torch.randint(2, 64, (rows, 9))
    if "token" in name:
        return inputs, torch.where(mask == 1, torch.randint(0, 3, ids.shape), -100)
    if "multi-label" in name or "scores" in name:
        return inputs, several()
    return inputs, torch.randn(rows) if "regression" in name else torch.randint(0, 3, (rows,))


def loss_of(model, inputs, labels):
    """Sums over labels divided by their number, as Trainer's mean."""
    if labels.is_floating_point() and labels.ndim == 2:
        return model(**inputs, labels=labels).loss
    logits = model(**inputs).logits
    if labels.is_floating_point():
        return torch.nn.functional.mse_loss(logits[:, 0], labels)
    return torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))


def curve(name, task, model, steps=10, lr=5e-3):
    torch.manual_seed(3)
    head = {} if task == "SEQ_CLS" or name.startswith("t5") else {"exclude_modules": ["classifier"], "modules_to_save": ["classifier"]}
    lora = LoraConfig(task_type=task, r=4, lora_alpha=8, target_modules="all-linear", **head)
    tuned = get_peft_model(model, lora, autocast_adapter_dtype=False)
    trained = [(n, p) for n, p in tuned.named_parameters() if p.requires_grad]
    tensors = {f"initial.{n}": p.detach().clone() for n, p in trained}
    groups = [{"params": [p], "weight_decay": 0.01 if p.ndim >= 2 else 0.0} for _, p in trained]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.999), eps=1e-8, foreach=False)
    losses, norms = [], []
    for step in range(steps):
        inputs, labels = batch(name, model.config, 100 + step)
        loss = loss_of(tuned, inputs, labels)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_([p for _, p in trained], 1.0).item())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        tensors |= {f"{step}.{key}": value.contiguous() for key, value in inputs.items()} | {f"{step}.labels": labels}
    as64 = lambda values: torch.tensor(values, dtype=torch.float64)
    save_file(tensors | {"loss": as64(losses), "grad_norm": as64(norms)}, folder / f"{name}.curve.safetensors")
    tuned.save_pretrained(folder / f"{name}.adapter")
    (folder / f"{name}.adapter" / "README.md").unlink(missing_ok=True)
    inputs, _ = batch(name, model.config, 5)
    with torch.no_grad():
        save_file(inputs | {"logits": tuned.eval()(**inputs).logits.contiguous()}, folder / f"{name}.adapted.safetensors")
    print(name, losses[0], losses[-1])


def gradients(name, model):
    """The loss of one batch and the gradient of every weight; some answers between 0 and 1, which both losses take."""
    inputs, labels = batch(name, model.config, 7)
    labels[0, 0] = 0.25
    loss = loss_of(model, inputs, labels)
    loss.backward()
    tensors = {f"gradient.{key}": p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    save_file(tensors | inputs | {"labels": labels, "loss": loss.detach().double()}, folder / f"{name}.gradients.safetensors")
    model.zero_grad()


def main():
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for seed, (name, (task, make, config)) in enumerate(MODELS.items(), start=60):
        model = seeded(make, config, seed)
        model.save_pretrained(folder / name)
        (folder / name / "generation_config.json").unlink(missing_ok=True)
        inputs, _ = batch(name, config, 5)
        with torch.no_grad():
            output = model(**inputs)
        given = output.logits if "logits" in output else output.last_hidden_state
        save_file(inputs | {"output": given.contiguous()}, folder / f"{name}.expected.safetensors")
        if name in ("bert-multi-label", "bert-scores", "vit-multi-label"):
            gradients(name, model)
        if "logits" in output:
            model.name_or_path = name
            curve(name, task, model)


if __name__ == "__main__":
    main()
