"""The slow rules that AdapterHub left out of the files of `../shared/goldens/adapterhub/t5-*`.

Run in this folder, with requirements.txt installed:  python make_adapterhub_rules.py
`save_adapter` keeps tensors with ".shared_parameters.<name>." in their names, and in T5ForConditionalGeneration, which is its
own base model, the name starts with "shared_parameters". The adapters' values are 0.5 N(0, 1) from seed 12, parameter by
parameter in the model's order, the shared rule last: everything that the files hold is compared, and what follows it is
the rule. It is written to `adapterhub-t5-rules.safetensors` by the adapter's name.
"""

import os
import pathlib

import torch
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
os.chdir(pathlib.Path(__file__).parent)
folder = pathlib.Path("../../../shared/goldens/adapterhub")
rules = {}
for name, parts, both in (("compacter", "W_left W_right b", True), ("compacter++", "W_left W_right b", False), ("phm", "W b", False)):
    stored = load_file(folder / f"t5-{name}" / "adapter.safetensors")
    torch.manual_seed(12)
    for side, last in (("encoder", 1), ("decoder", 2)):
        for block in range(2):
            for layer in (0, last) if both else (last,):
                for end in ("adapter_down.0", "adapter_up"):
                    for part in parts.split():
                        tensor = stored.pop(f"{side}.block.{block}.layer.{layer}.adapters.a.{end}.{part}")
                        assert torch.equal(torch.randn(tensor.shape) * 0.5, tensor), (name, side, block, layer, end, part)
    assert not stored, stored.keys()
    rules[name] = torch.randn(4, 4, 4) * 0.5
save_file(rules, "adapterhub-t5-rules.safetensors")
