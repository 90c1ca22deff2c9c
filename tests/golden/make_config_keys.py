"""What transformers knows of config.json: every key of each configuration class, with its default.

Run in this folder with requirements.txt installed:  python make_config_keys.py
`config-keys.json` holds, for each model_type: `defaults`, what a fresh configuration holds; `aliases`, other names of a key;
`read`, what the class takes out of a file under a name of its own (older spellings) or its model asks of a configuration.
`shared` holds the keys of the base class and of generation, `rotary` those of every class that rotates positions, `activations` the names of ACT2FN, `rope` the keys that each
type of rotary positions takes.
"""

import inspect
import json
import pathlib
import re

import transformers as hf
from transformers import modeling_rope_utils as rope
from transformers.activations import ACT2CLS
from transformers.configuration_utils import PreTrainedConfig

CLASSES = {
    "llama": hf.LlamaConfig, "mistral": hf.MistralConfig, "qwen2": hf.Qwen2Config, "qwen3": hf.Qwen3Config,
    "smollm3": hf.SmolLM3Config, "gemma": hf.GemmaConfig, "gemma2": hf.Gemma2Config, "gemma3_text": hf.Gemma3TextConfig,
    "phi3": hf.Phi3Config, "gpt_neox": hf.GPTNeoXConfig, "gpt2": hf.GPT2Config, "bert": hf.BertConfig,
    "roberta": hf.RobertaConfig, "deberta-v2": hf.DebertaV2Config, "vit": hf.ViTConfig, "t5": hf.T5Config,
}


def names_in(source):
    """Keys that a source text takes out of keyword arguments or asks of a configuration."""
    found = re.findall(r"""kwargs\.(?:get|pop)\(\s*"(\w+)\"""", source)
    found += re.findall(r"""getattr\(\s*(?:self\.)?(?:config|self)\s*,\s*"(\w+)\"""", source)
    found += re.findall(r"""\bconfig\.([a-z]\w*)\b(?!\()""", source)
    return set(found)


def plain(value):
    """A default as JSON has it."""
    return value if isinstance(value, (int, float, str, bool, list, dict, type(None))) else str(value)


def inner(name):
    """Keys that mean something in Python alone."""
    return name.startswith("_") and name != "_name_or_path" or name in {"config", "self", "json", "get_text_config", "to_dict"}


def described(model_type, cls):
    modeling = inspect.getmodule(getattr(hf, cls.__name__.replace("Config", "Model")))
    source = inspect.getsource(cls) + inspect.getsource(modeling)
    defaults = {key: plain(value) for key, value in cls().to_dict().items() if not inner(key)}
    shared = {key: plain(value) for key, value in PreTrainedConfig().to_dict().items()}
    own = {key: value for key, value in defaults.items() if key not in shared or shared[key] != value}
    own.pop("model_type", None)
    aliases = dict(cls.attribute_map)
    read = {name for name in names_in(source) if not inner(name)} - set(own) - set(shared) - set(aliases)
    return {"defaults": own, "aliases": aliases, "read": sorted(read)}


base = {name for name in names_in(inspect.getsource(PreTrainedConfig.__post_init__)) if not inner(name)}
base |= set(PreTrainedConfig().to_dict()) | {"torch_dtype", "num_labels"}
rotary = {name for name in names_in(inspect.getsource(rope.RotaryEmbeddingConfigMixin)) if not inner(name)}
generation = set(hf.GenerationConfig._get_default_generation_params())

keys = {
    "shared": sorted((base | generation) - rotary),
    "activations": sorted(ACT2CLS),
    "rotary": sorted(rotary - {"layer_types", "head_dim"}),
    "rope": {
        kind: sorted(set(re.findall(r'"(\w+)"', "".join(re.findall(r"(?:required_keys|optional_keys) = \{[^}]*\}", inspect.getsource(
            getattr(rope.RotaryEmbeddingConfigMixin, f"_validate_{kind}_rope_parameters")))))))
        for kind in ["default", "linear", "dynamic", "yarn", "longrope", "llama3"]
    },
    "models": {model_type: described(model_type, cls) for model_type, cls in CLASSES.items()},
}
path = pathlib.Path(__file__).parent / "config-keys.json"
path.write_text(json.dumps(keys, indent=1, sort_keys=True) + "\n")
