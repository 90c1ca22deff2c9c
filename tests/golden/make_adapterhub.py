"""Adapters in AdapterHub's format on tiny encoders, with the outputs and gradients of the formulas in torch.

Run after make_models.py and make_encoders.py, in this folder, with requirements.txt installed:  python make_adapterhub.py
AdapterHub's `adapters` wants an older transformers, so its modules are written out here: x + h + A(h), and for Compacter++
of its own kind x + h + A(x + h), or in BERT LN(x + h + A(LN(x + h))); in parallel x + h + A(x). What `adapters` itself wrote
is in `../shared/goldens/adapterhub`. `adapterhub/<name>` is a folder as `save_adapter` writes
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
from transformers.activations import ACT2FN

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
    def __init__(self, place, kind, tensors, shared, reduction=REDUCTION, activation="gelu", scaling=1.0):
        self.kind = kind
        self.activation = ACT2FN[activation]
        self.scaling = scaling
        self.sides = {}
        for side, into, out in (("adapter_down.0", WIDTH, WIDTH // reduction), ("adapter_up", WIDTH // reduction, WIDTH)):
            if kind == "dense":
                parts = {"weight": torch.randn(out, into) * 0.3, "bias": torch.randn(out) * 0.1}
            else:
                n = TERMS
                parts = {"b": torch.randn(out) * 0.1}
                if shared is None:
                    parts |= {"phm_rule": torch.randn(n, n, n) * 0.5}
                if kind == "phm":
                    parts |= {"W": torch.randn(n, into // n, out // n) * 0.5}
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
        return self.scaling * self.project("adapter_up", self.activation(self.project("adapter_down.0", h)))


def behind_bert(module, adapter, reads):
    def forward(self, hidden_states, input_tensor):
        h = self.dense(hidden_states)
        total = h + input_tensor
        return self.LayerNorm(total + adapter({"h": h, "sum": self.LayerNorm(total), "x": input_tensor}[reads]))

    module.forward = types.MethodType(forward, module)


def behind_t5(module, sublayer, adapter, reads):
    """The sublayer's last linear map gives h; the block adds it to x, which its first argument is."""
    inner = getattr(module, sublayer)
    outer = module.forward

    def forward(x, *args, **kwargs):
        last = inner.wo if sublayer == "DenseReluDense" else inner.o
        hook = last.register_forward_hook(lambda _m, _i, h: h + adapter({"h": h, "sum": x + h, "x": x}[reads]))
        result = outer(x, *args, **kwargs)
        hook.remove()
        return result

    module.forward = forward


def make(name, base, model_class, root, kind, both, before, cross=False, shares=None, **more):
    """`shares`: whether one slow rule is all adapters', where that is not the kind's own."""
    parallel = more.get("is_parallel", False)
    left, reductions = more.get("leave_out", []), more.get("reduction_factor", {})
    reads = "x" if parallel else "sum" if before else "h"

    def adapter(place, layer):
        reduction = reductions.get(str(layer), reductions.get("default", REDUCTION))
        own = (reduction, more.get("non_linearity", "gelu"), more.get("scaling", 1.0))
        return Adapter(place, kind, tensors, shared, *own)

    torch.manual_seed(11)
    model = model_class.from_pretrained(f"encoders/{base}", attn_implementation="eager").eval()
    for p in model.parameters():
        p.requires_grad_(False)
    tensors = {}
    shares = kind == "compacter" if shares is None else shares
    shared = torch.randn(TERMS, TERMS, TERMS).mul_(0.5).requires_grad_() if shares else None
    if shared is not None:
        tensors[f"{root}.shared_parameters.golden.phm_rule"] = shared
    if root == "bert":
        for i, layer in enumerate(model.bert.encoder.layer):
            ends = {"attention.output": layer.attention.output, "output": layer.output}
            for end in ends if both else ["output"]:
                if i not in left:
                    behind_bert(ends[end], adapter(f"bert.encoder.layer.{i}.{end}", i), reads)
    else:
        layer = -1
        for side in ("encoder", "decoder"):
            for i, block in enumerate(getattr(model, side).block):
                layer += 1
                last = len(block.layer) - 1
                crossed = [(1, "EncDecAttention")] if cross and side == "decoder" else []
                for j, sublayer in ([(0, "SelfAttention")] if both else []) + crossed + [(last, "DenseReluDense")]:
                    if layer not in left:
                        behind_t5(block.layer[j], sublayer, adapter(f"transformer.{side}.block.{i}.layer.{j}", layer), reads)
    inputs, labels = batch(base, model.config, 7)
    loss = loss_of(model, inputs, labels)
    loss.backward()
    config = dict(ln_before=False, ln_after=False, mh_adapter=both, output_adapter=True, non_linearity="gelu",
                  original_ln_before=before, original_ln_after=True, residual_before_ln=True, reduction_factor=REDUCTION,
                  scaling=1.0, phm_layer=kind != "dense", phm_dim=TERMS, phm_rank=1, phm_bias=True, learn_phm=True,
                  shared_phm_rule=shares, factorized_phm_W=kind != "phm", factorized_phm_rule=False)
    config |= more | ({"cross_adapter": True} if cross else {})
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
make("bert-parallel", *BERT, "dense", False, False, is_parallel=True, scaling=4.0, non_linearity="relu")
make("t5-parallel", *T5, "dense", True, False, is_parallel=True, scaling=0.5, non_linearity="swish")
make("t5-cross", *T5, "dense", True, False, cross=True, leave_out=[1], non_linearity="quick_gelu",
     reduction_factor={"0": 2, "3": 8, "default": 4})
make("bert-own-rules", *BERT, "compacter", True, False, shares=False, non_linearity="mish")
