"""Quantised matrices in the formats of other tools, and the weights that they stand for: quantised.safetensors.

The tools need GPUs, Macs or kernels of their own, so their layouts are written here from what they publish, one value at a
time and independently of the TypeScript:

- bitsandbytes 0.50: bitsandbytes/functional.py (`QuantState.as_dict`, `get_4bit_type`, `quantize_blockwise`), LLM.int8()
  rows with `SCB` (bitsandbytes/nn/modules.py, `Linear8bitLt`)
- GPTQ: AutoGPTQ 0.7, auto_gptq/nn_modules/qlinear/qlinear_cuda_old.py (`pack`); GPTQModel's `checkpoint_format`
- AWQ: AutoAWQ 0.2, awq/modules/linear/gemm.py and awq/utils/packing_utils.py
- compressed-tensors 0.12: compressors/quantized_compressors/pack_quantized.py (`pack_to_int32`), naive_quantized.py
- float8 blocks: DeepSeek-V3, inference/kernel.py (`weight_dequant`)
- MLX 0.30: `mlx.core.quantize` (https://ml-explore.github.io/mlx/build/html/python/_autosummary/mlx.core.quantize.html)

Every sample is `<name>/<part>` with `<name>/expected` [out, in]; what config.json would say is in the metadata.
Also all 256 patterns of the floats of 8 bits, as PyTorch reads them: `float8/<dtype>`.

    python make_quantised.py    # torch 2.13.0, safetensors 0.8, numpy 2.4
"""

import json

import numpy as np
import torch
from safetensors.torch import save_file

rng = np.random.default_rng(20261130)
tensors: dict[str, torch.Tensor] = {}
settings: dict[str, dict] = {}


def sample(name, parts, expected, said=None):
    for part, values in parts.items():
        tensor = values if isinstance(values, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(values))
        tensors[f"{name}/{part}"] = tensor.contiguous()
    tensors[f"{name}/expected"] = torch.from_numpy(np.ascontiguousarray(expected, dtype=np.float32))
    settings[name] = said or {}


def int32(bits_of_word):
    """A list of up to 32 bits, the lowest first, as a signed integer."""
    value = sum(int(bit) << at for at, bit in enumerate(bits_of_word))
    return value - (1 << 32) if value >= 1 << 31 else value


def stream(codes, bits):
    """Codes one after the other, the lowest bit first, cut into words of 32."""
    flat = [(int(code) >> at) & 1 for code in codes for at in range(bits)]
    assert len(flat) % 32 == 0
    return [int32(flat[at : at + 32]) for at in range(0, len(flat), 32)]


# bitsandbytes, 8 bits
codes = rng.integers(-127, 128, (6, 20)).astype(np.int8)
largest = rng.uniform(0.1, 2, 6).astype(np.float32)
sample(
    "bitsandbytes-int8",
    {"weight": codes, "SCB": largest, "weight_format": np.array(0, dtype=np.uint8)},
    codes.astype(np.float64) * largest[:, None].astype(np.float64) / 127,
    {"quant_method": "bitsandbytes", "load_in_8bit": True},
)

# bitsandbytes, 4 bits
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]
FP4 = [0, 0.005208333333333333, 0.6666666666666666, 1.0, 0.3333333333333333, 0.5, 0.16666666666666666, 0.25]
FP4 = FP4 + [-value for value in FP4]


def four_bits(name, kind, table, double):
    rows, columns, blocksize = 6, 48, 64
    flat = rng.integers(0, 16, rows * columns)
    blocks = -(-flat.size // blocksize)
    state = {"quant_type": kind, "blocksize": blocksize, "dtype": "bfloat16", "shape": [rows, columns]}
    parts = {
        "weight": np.array([[flat[at] << 4 | flat[at + 1]] for at in range(0, flat.size, 2)], dtype=np.uint8),
        "weight.quant_map": np.array(table, dtype=np.float32),
    }
    if double:
        nested_blocksize, offset = 2, 0.75
        nested_map = np.sort(rng.uniform(-1, 1, 256)).astype(np.float32)
        nested_absmax = rng.uniform(0.1, 0.5, -(-blocks // nested_blocksize)).astype(np.float32)
        absmax_codes = rng.integers(0, 256, blocks).astype(np.uint8)
        absmax = [
            float(nested_map[code]) * float(nested_absmax[block // nested_blocksize]) + offset
            for block, code in enumerate(absmax_codes)
        ]
        parts |= {
            "weight.absmax": absmax_codes,
            "weight.nested_absmax": nested_absmax,
            "weight.nested_quant_map": nested_map,
        }
        state |= {"nested_blocksize": nested_blocksize, "nested_dtype": "float32", "nested_offset": offset}
    else:
        absmax = rng.uniform(0.1, 2, blocks).astype(np.float32)
        parts["weight.absmax"] = absmax
    text = json.dumps(state).encode()
    parts[f"weight.quant_state.bitsandbytes__{kind}"] = np.frombuffer(text, dtype=np.uint8).copy()
    values = [float(np.float32(table[code])) * float(absmax[at // blocksize]) for at, code in enumerate(flat)]
    sample(name, parts, np.array(values).reshape(rows, columns), {"quant_method": "bitsandbytes", "load_in_4bit": True})


four_bits("bitsandbytes-nf4", "nf4", NF4, False)
four_bits("bitsandbytes-fp4", "fp4", FP4, False)
four_bits("bitsandbytes-nf4-double", "nf4", NF4, True)


# GPTQ
def gptq(name, bits, order=False, version=1):
    rows, columns, group = 32, 64, 32
    groups = columns // group
    codes = rng.integers(0, 1 << bits, (columns, rows))
    zeros = rng.integers(0, 1 << bits, (groups, rows))
    scales = rng.uniform(0.01, 0.2, (groups, rows)).astype(np.float16)
    group_of = np.arange(columns) // group
    if order:
        group_of = rng.permutation(group_of)
    stored = (zeros - 1) % (1 << bits) if version == 1 else zeros
    qweight = np.array([stream(codes[:, row], bits) for row in range(rows)], dtype=np.int32).T
    qzeros = np.array([stream(stored[g], bits) for g in range(groups)], dtype=np.int32)
    expected = np.zeros((rows, columns))
    for row in range(rows):
        for column in range(columns):
            g = group_of[column]
            expected[row, column] = float(scales[g, row]) * (int(codes[column, row]) - int(zeros[g, row]))
    parts = {"qweight": qweight, "qzeros": qzeros, "scales": scales}
    if order or version == 2:
        parts["g_idx"] = group_of.astype(np.int32)
    said = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": order}
    sample(name, parts, expected, said if version == 1 else said | {"checkpoint_format": "gptq_v2"})


for bits in (4, 8, 2, 3):
    gptq(f"gptq-{bits}", bits)
gptq("gptq-4-order", 4, order=True)
gptq("gptq-4-v2", 4, version=2)

# AWQ: in each word, nibble n is output ORDER[n]
ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
rows, columns, group = 16, 64, 32
codes = rng.integers(0, 16, (columns, rows))
zeros = rng.integers(0, 16, (columns // group, rows))
scales = rng.uniform(0.01, 0.2, (columns // group, rows)).astype(np.float16)


def nibbles(line):
    return [stream([line[at + place] for place in ORDER], 4)[0] for at in range(0, len(line), 8)]


expected = np.array(
    [
        [
            float(scales[column // group, row]) * (int(codes[column, row]) - int(zeros[column // group, row]))
            for column in range(columns)
        ]
        for row in range(rows)
    ]
)
sample(
    "awq",
    {
        "qweight": np.array([nibbles(line) for line in codes], dtype=np.int32),
        "qzeros": np.array([nibbles(line) for line in zeros], dtype=np.int32),
        "scales": scales,
    },
    expected,
    {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True},
)


# compressed-tensors, whole codes
def int8(name, scale_shape):
    rows, columns = 6, 40
    codes = rng.integers(-128, 128, (rows, columns)).astype(np.int8)
    scales = torch.from_numpy(rng.uniform(0.001, 0.02, scale_shape).astype(np.float32)).to(torch.bfloat16)
    parts = {"weight": codes, "weight_scale": scales, "input_scale": np.array([0.5], dtype=np.float32)}
    wide = np.asarray(scales.float()).reshape(scale_shape if len(scale_shape) == 2 else (1, 1)).astype(np.float64)
    offsets = np.zeros_like(wide)
    if name.endswith("groups"):
        offsets = rng.integers(-9, 10, wide.shape)
        parts["weight_zero_point"] = offsets.astype(np.int8)
    spread = lambda x: np.repeat(np.repeat(x, rows // x.shape[0], axis=0), columns // x.shape[1], axis=1)
    sample(
        name,
        parts,
        (codes.astype(np.float64) - spread(offsets)) * spread(wide),
        {"quant_method": "compressed-tensors", "format": "int-quantized"},
    )


int8("int8-channel", (6, 1))
int8("int8-tensor", (1,))
int8("int8-groups", (6, 5))


# compressed-tensors, packed
def packed(name, bits, group, zeros=False, order=False):
    rows, columns = 10, 36
    groups = 1 if group is None else columns // group
    each = 32 // bits
    middle = 1 << (bits - 1)
    codes = rng.integers(-middle, middle, (rows, columns))
    scales = rng.uniform(0.01, 0.2, (rows, groups)).astype(np.float16)
    zero = rng.integers(-middle, middle, (rows, groups)) if zeros else np.zeros((rows, groups), dtype=int)
    group_of = np.arange(columns) // (group or columns)
    if order:
        group_of = rng.permutation(group_of)

    def words(line):
        line = [int(code) + middle for code in line]
        line += [0] * (-len(line) % each)
        return [
            int32([(code >> at) & 1 for code in line[w : w + each] for at in range(bits)]) for w in range(0, len(line), each)
        ]

    parts = {
        "weight_packed": np.array([words(line) for line in codes], dtype=np.int32),
        "weight_scale": scales,
        "weight_shape": np.array([rows, columns], dtype=np.int64),
    }
    if zeros:
        parts["weight_zero_point"] = np.array([words(zero[:, g]) for g in range(groups)], dtype=np.int32).T
    if order:
        parts["weight_g_idx"] = group_of.astype(np.int32)
    expected = np.array(
        [
            [float(scales[r, group_of[c]]) * (int(codes[r, c]) - int(zero[r, group_of[c]])) for c in range(columns)]
            for r in range(rows)
        ]
    )
    weights = {"num_bits": bits, "group_size": group, "symmetric": not zeros, "type": "int"}
    said = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
    sample(name, parts, expected, said | {"config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}})


packed("packed-int4", 4, 12)
packed("packed-int8", 8, None)
packed("packed-int4-zeros", 4, 12, zeros=True)
packed("packed-int4-order", 4, 12, order=True)


# float8
def float8(name, dtype, rows, columns, scale_shape, part, said):
    codes = torch.from_numpy(rng.normal(0, 1, (rows, columns)).astype(np.float32)).to(dtype)
    scales = rng.uniform(0.01, 0.2, scale_shape).astype(np.float32)
    expected = np.zeros((rows, columns))
    wide = np.asarray(codes.float())
    for r in range(rows):
        for c in range(columns):
            if len(scale_shape) == 1:
                scale = scales[0]
            elif scale_shape[1] == 1:
                scale = scales[r, 0]
            else:
                scale = scales[r // 4, c // 8]
            expected[r, c] = float(wide[r, c]) * float(scale)
    sample(name, {"weight": codes, part: scales}, expected, said)


whole = {"quant_method": "compressed-tensors", "format": "float-quantized"}
float8("float8-e4m3-tensor", torch.float8_e4m3fn, 6, 10, (1,), "weight_scale", whole)
float8("float8-e5m2-channel", torch.float8_e5m2, 6, 10, (6, 1), "weight_scale", whole)
blocks = {"quant_method": "fp8", "weight_block_size": [4, 8], "activation_scheme": "dynamic"}
float8("float8-blocks", torch.float8_e4m3fn, 10, 20, (3, 3), "weight_scale_inv", blocks)


# MLX
def mlx(bits, group=32):
    rows, columns = 4, 64
    codes = rng.integers(0, 1 << bits, (rows, columns))
    scales = rng.uniform(0.01, 0.2, (rows, columns // group)).astype(np.float16)
    biases = rng.uniform(-1, 1, (rows, columns // group)).astype(np.float16)
    words = np.array([stream(line, bits) for line in codes], dtype=np.int32).view(np.uint32)
    expected = np.array(
        [
            [float(scales[r, c // group]) * int(codes[r, c]) + float(biases[r, c // group]) for c in range(columns)]
            for r in range(rows)
        ]
    )
    parts = {"weight": torch.from_numpy(words.copy()), "scales": scales, "biases": biases}
    sample(f"mlx-{bits}", parts, expected, {"bits": bits, "group_size": group})


for bits in (2, 3, 4, 5, 6, 8):
    mlx(bits)

for spelling, dtype in (
    ("float8e4m3fn", torch.float8_e4m3fn),
    ("float8e5m2", torch.float8_e5m2),
    ("float8e8m0", torch.float8_e8m0fnu),
):
    patterns = torch.arange(256, dtype=torch.int16).to(torch.uint8).view(dtype)
    tensors[f"float8/{spelling}"] = patterns
    tensors[f"float8/{spelling}/expected"] = patterns.float()

save_file(tensors, "quantised.safetensors", {name: json.dumps(said) for name, said in settings.items()})
