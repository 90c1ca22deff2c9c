"""Adapters in AdapterHub's format on tiny encoders, with the outputs and gradients of the formulas in torch.

Run after make_models.py and make_encoders.py, in this folder, with requirements.txt installed:  python make_adapterhub.py
AdapterHub's `adapters` wants an older transformers, so its modules are written out here: x + h + A(h), and for Compacter++
of its own kind x + h + A(x + h), or in BERT LN(x + h + A(LN(x + h))). `adapterhub/<name>` is a folder as `save_adapter` writes
it; `adapterhub/<name>.expected.safetensors` holds what the model reads, what it gives, the labels, the mean loss, and the
loss's gradient of every tensor of the adapter as `gradient.<key>`.
"""

import json
import os
import pathlib
import types

import torch
import transformers as hf
from safetensors.torch import save_file

from make_encoders import batch, loss_of

torch.set_num_threads(1)
os.chdir(pathlib.Path(__file__).parent)
folder = pathlib.Path("adapterhub")
WIDTH, REDUCTION, TERMS = 32, 4, 4


def projection(parts, rule, x):
    """x W + b, W = sum_i kron(A_i, B_i), made as it is defined."""
    fast = parts["W"] if "W" in parts else parts["W_left"] @ parts["W_right"]
    return x @ sum(torch.kron(rule[i], fast[i]) for i in range(len(rule))) + parts["b"]


class Adapter:
    def __init__(self, place, kind, tensors, shared):
        self.kind = kind
        self.sides = {}
        for side, into, out in (("adapter_down.0", WIDTH, WIDTH // REDUCTION), ("adapter_up", WIDTH // REDUCTION, WIDTH)):
            if kind == "dense":
                parts = {"weight": torch.randn(out, into) * 0.3, "bias": torch.randn(out) * 0.1}
            else:
                n = TERMS
                parts = {"b": torch.randn(out) * 0.1}
                if kind == "phm":
                    parts |= {"phm_rule": torch.randn(n, n, n) * 0.5, "W": torch.randn(n, into // n, out // n) * 0.5}
                else:
                    parts |= {"W_left": torch.randn(n, into // n, 1), "W_right": torch.randn(n, 1, out // n)}
            self.sides[side] = {key: value.requires_grad_() for key, value in parts.items()}
            tensors |= {f"{place}.adapters.golden.{side}.{key}": value for key, value in self.sides[side].items()}
        self.shared = shared

    def project(self, side, x):
        parts = self.sides[side]
        if self.kind == "dense":
            return torch.nn.functional.linear(x, parts["weight"], parts["bias"])
        return projection(parts, parts.get("phm_rule", self.shared), x)

    def __call__(self, h):
        return self.project("adapter_up", torch.nn.functional.gelu(self.project("adapter_down.0", h)))


def behind_bert(module, adapter, before):
    def forward(self, hidden_states, input_tensor):
        h = self.dense(hidden_states)
        total = h + input_tensor
        return self.LayerNorm(total + adapter(self.LayerNorm(total) if before else h))

    module.forward = types.MethodType(forward, module)


def behind_t5(module, sublayer, adapter, before):
    """The sublayer's last linear map gives h; the block adds it to x, which its first argument is."""
    inner = getattr(module, sublayer)
    outer = module.forward

    def forward(x, *args, **kwargs):
        last = inner.o if sublayer == "SelfAttention" else inner.wo
        hook = last.register_forward_hook(lambda _m, _i, h: h + adapter(x + h if before else h))
        result = outer(x, *args, **kwargs)
        hook.remove()
        return result

    module.forward = forward


def make(name, base, model_class, root, kind, both, before):
    torch.manual_seed(11)
    model = model_class.from_pretrained(f"encoders/{base}", attn_implementation="eager").eval()
    for p in model.parameters():
        p.requires_grad_(False)
    tensors = {}
    shared = torch.randn(TERMS, TERMS, TERMS).mul_(0.5).requires_grad_() if kind == "compacter" else None
    if shared is not None:
        tensors[f"{root}.shared_parameters.golden.phm_rule"] = shared
    if root == "bert":
        for i, layer in enumerate(model.bert.encoder.layer):
            ends = {"attention.output": layer.attention.output, "output": layer.output}
            for end in ends if both else ["output"]:
                behind_bert(ends[end], Adapter(f"bert.encoder.layer.{i}.{end}", kind, tensors, shared), before)
    else:
        for side in ("encoder", "decoder"):
            for i, block in enumerate(getattr(model, side).block):
                last = len(block.layer) - 1
                for j, sublayer in ([(0, "SelfAttention")] if both else []) + [(last, "DenseReluDense")]:
                    adapter = Adapter(f"transformer.{side}.block.{i}.layer.{j}", kind, tensors, shared)
                    behind_t5(block.layer[j], sublayer, adapter, before)
    inputs, labels = batch(base, model.config, 7)
    loss = loss_of(model, inputs, labels)
    loss.backward()
    config = dict(ln_before=False, ln_after=False, mh_adapter=both, output_adapter=True, non_linearity="gelu",
                  original_ln_before=before, original_ln_after=True, residual_before_ln=True, reduction_factor=REDUCTION,
                  scaling=1.0, phm_layer=kind != "dense", phm_dim=TERMS, phm_rank=1, phm_bias=True, learn_phm=True,
                  shared_phm_rule=kind == "compacter", factorized_phm_W=kind != "phm", factorized_phm_rule=False)
    (folder / name).mkdir(parents=True, exist_ok=True)
    meta = dict(config=config, hidden_size=WIDTH, model_class=f"{'Bert' if root == 'bert' else 'T5'}AdapterModel",
                model_name="", model_type=model.config.model_type, name="golden", version="adapters.1.2.0")
    (folder / name / "adapter_config.json").write_text(json.dumps(meta, indent=2, sort_keys=True) + "\n")
    save_file({key: value.detach() for key, value in tensors.items()}, folder / name / "adapter.safetensors")
    with torch.no_grad():
        output = model(**inputs).logits.contiguous()
    gradients = {f"gradient.{key}": value.grad for key, value in tensors.items()}
    save_file(inputs | gradients | {"labels": labels, "output": output, "loss": loss.detach().double()},
              folder / f"{name}.expected.safetensors")


BERT = ("bert-sequence", hf.BertForSequenceClassification, "bert")
T5 = ("t5", hf.T5ForConditionalGeneration, "transformer")
for short, base in (("bert", BERT), ("t5", T5)):
    make(f"{short}-compacter", *base, "compacter", True, False)
    make(f"{short}-compacter-plus", *base, "compacter", False, True)
make("t5-phm", *T5, "phm", True, False)
make("bert-bottleneck", *BERT, "dense", True, False)
