import { constant, type Dim, input, inScope, type Value } from "../graph/index.ts";
import {
  add,
  apply,
  Cos,
  cast,
  concat,
  div,
  floor,
  gather,
  matmul,
  max,
  mul,
  pow,
  ReduceMin,
  reciprocal,
  reduceMean,
  reduceSum,
  relu,
  reshape,
  reshapeTo,
  Sin,
  sigmoid,
  split,
  sqrt,
  squeeze,
  sub,
  transpose,
  unsqueeze,
} from "../ops/index.ts";
import type { TensorSpec, Weights } from "./architecture.ts";
import { dense } from "./blocks.ts";
import { type Encoded, type Encoder, linearTensors, sequenceHeads } from "./encoder.ts";
import { characterInputs } from "./inputs.ts";
import { configured, integer, type LedgerOf, real } from "./ledger.ts";
import { sharedLedger } from "./shared-ledger.ts";

/** The sizes of a RETSim model; those of Google's own unless `config.json` says otherwise. */
export interface RetsimConfig {
  /** Bits of a code point. */
  readonly bits: number;
  readonly hiddenSize: number;
  readonly sharedSize: number;
  readonly layers: number;
  /** Characters; shorter texts are filled up, longer ones cut. */
  readonly length: number;
  readonly normEpsilon: number;
}

interface RetsimSettings {
  readonly binarizer_size: number;
  readonly hidden_size: number;
  readonly shared_dim: number;
  readonly num_hidden_layers: number;
  readonly max_position_embeddings: number;
  readonly layer_norm_eps: number;
}

const ledger: LedgerOf<RetsimSettings> = {
  ...sharedLedger,
  binarizer_size: integer("bits of a code point", 24),
  hidden_size: integer("width of the hidden states", 256),
  shared_dim: integer("width of queries and keys", 128),
  num_hidden_layers: integer("gated attention units", 2),
  max_position_embeddings: integer("characters of a text", 512),
  layer_norm_eps: real("added under the root of norms", 1e-6),
};

/**
 * RETSim: characters as the bits of their code points, gated attention units without softmax, a generalised mean.
 * Zhang et al. 2023 (arXiv 2311.17264); the unit is that of Hua et al. 2022 (arXiv 2202.10447), §2.2, with the names
 * and the padding of the PyTorch port: a text is always `length` characters, and those that fill it up are read too.
 */
export const retsim: Encoder<RetsimConfig> = {
  modelType: "retsim",
  className: "RETSim",
  prefix: "retsim",
  sizeKeys: {
    binarizer_size: "side",
    hidden_size: "side",
    shared_dim: "side",
    num_hidden_layers: "layers",
    max_position_embeddings: "side",
  },
  harmless: [],
  inTransformers: false,

  ...configured<RetsimSettings, RetsimConfig>(ledger, (settings, reader) => {
    const { binarizer_size: bits } = settings;
    if (bits > 24) reader.problem(`"binarizer_size" (${bits}) is more than 24`);
    return {
      bits,
      hiddenSize: settings.hidden_size,
      sharedSize: settings.shared_dim,
      layers: settings.num_hidden_layers,
      length: settings.max_position_embeddings,
      normEpsilon: settings.layer_norm_eps,
    };
  }),

  sizes: ({ hiddenSize, layers, length, sharedSize, bits }) => ({
    vocabSize: 2 ** bits,
    hiddenSize,
    layers,
    heads: 1,
    kvHeads: 1,
    headDim: sharedSize,
    contextLength: length,
  }),
  reads: ({ length }) => characterInputs(length),

  tensors: ({ bits, hiddenSize: hidden, sharedSize: shared, layers, length }) => [
    { name: "positional_embedding.scale", shape: [] },
    ...linearTensors("encoder_start", hidden, bits),
    ...Array.from({ length: layers }, (_, i): readonly TensorSpec[] => {
      const unit = `gau_layers.${i}`;
      return [
        { name: `${unit}.norm.scale`, shape: [] },
        ...linearTensors(`${unit}.proj1`, 2 * hidden + shared, hidden),
        { name: `${unit}.gamma`, shape: [2, shared] },
        { name: `${unit}.beta`, shape: [2, shared] },
        { name: `${unit}.positional_encoding.a`, shape: [length] },
        { name: `${unit}.positional_encoding.b`, shape: [length] },
        ...linearTensors(`${unit}.proj2`, hidden, hidden),
      ];
    }).flat(),
  ],

  encode: (config, weights, rows) => {
    const { bits, hiddenSize, length, layers } = config;
    const inputIds = input("input_ids", "int64", [rows, length]);
    const placed = inScope("positional_embedding", () =>
      add(bitsOf(inputIds, bits), mul(sinusoids(length, bits), weights("positional_embedding.scale"))),
    );
    let x = swish(dense(weights, "encoder_start", reshape(placed, [-1, bits]), { bias: true }));
    for (let i = 0; i < layers; i++) x = gatedUnit(config, weights, `gau_layers.${i}`, x, rows, inputIds);
    return { inputs: [inputIds], hidden: reshape(x, [-1, hiddenSize]), batch: rows, seq: length };
  },

  heads: sequenceHeads({
    module: "classifier",
    tensors: ({ hiddenSize }, labels) => linearTensors("classifier", labels, hiddenSize),
    logits: (config, weights, encoded) => {
      // Pooled features are in the hundred thousands; a head reads them at unit root mean square.
      const features = inScope("classifier", () => unitSquares(pooled(config, encoded), config.normEpsilon));
      return dense(weights, "classifier", features, { bias: true });
    },
  }),

  embedding: {
    tensors: ({ hiddenSize }) => linearTensors("metric_embedding.linear", hiddenSize, hiddenSize),
    embed: (config, weights, encoded) => {
      const embedded = dense(weights, "metric_embedding.linear", pooled(config, encoded), { bias: true });
      return inScope("metric_embedding", () => {
        const size = sqrt(reduceSum(mul(embedded, embedded), [1]));
        return div(embedded, max(size, 1e-12));
      });
    },
  },
};

function swish(x: Value): Value {
  return mul(x, sigmoid(x));
}

/** The bits of code points, the highest first: int64 [rows, length] -> [rows, length, bits]. */
function bitsOf(inputIds: Value, bits: number): Value {
  const powers = Array.from({ length: bits }, (_, i) => 2 ** -(bits - 1 - i));
  const shifted = floor(mul(unsqueeze(cast(inputIds, "float32"), [2]), constant(powers)));
  return sub(shifted, mul(floor(mul(shifted, 0.5)), 2));
}

/** Sines, then cosines, of positions at wavelengths up to 10⁴: [length, size]. Vaswani et al. 2017, §3.5. */
function sinusoids(length: number, size: number): Value {
  const half = size / 2;
  const frequencies = Array.from({ length: half }, (_, i) => Math.exp((-i * Math.log(1e4)) / (half - 1)));
  const angles = mul(column(length), constant(frequencies));
  return concat([apply(Sin, [angles]), apply(Cos, [angles])], 1);
}

/** 0, 1, … as a column [length, 1]. */
function column(length: number): Value {
  return constant(
    Array.from({ length }, (_, i) => i),
    "float32",
    [length, 1],
  );
}

/**
 * A gated attention unit: x + (u ∘ (relu²(QKᵀ/n + b) v))·W. Hua et al. 2022, §2.2. x [rows·length, hidden] -> the same.
 */
function gatedUnit(
  { hiddenSize, sharedSize, length, normEpsilon }: RetsimConfig,
  weights: Weights,
  unit: string,
  x: Value,
  rows: Dim,
  inputIds: Value,
): Value {
  const normed = inScope(`${unit}.norm`, () => mul(unitSquares(x, normEpsilon), weights(`${unit}.norm.scale`)));
  const projected = dense(weights, `${unit}.proj1`, normed, { bias: true });
  const mixed = inScope(unit, () => {
    const [gate, value, base] = split(swish(projected), [hiddenSize, hiddenSize, sharedSize], 1) as unknown as [
      Value,
      Value,
      Value,
    ]; // three sizes
    const sequences = (part: Value, size: number): Value => reshapeTo(part, [rows, length, size], [inputIds]);
    const offset = (row: number): Value => {
      const [scale, shift] = ["gamma", "beta"].map((name) =>
        gather(weights(`${unit}.${name}`), constant(row, "int64")),
      );
      return sequences(add(mul(base, scale as Value), shift as Value), sharedSize); // two names
    };
    const scores = mul(matmul(offset(0), transpose(offset(1), [0, 2, 1])), 1 / length);
    const active = relu(add(scores, toeplitz(weights, `${unit}.positional_encoding`, length)));
    const attended = matmul(mul(active, active), sequences(value, hiddenSize));
    return mul(gate, reshape(attended, [-1, hiddenSize]));
  });
  return add(x, dense(weights, `${unit}.proj2`, mixed, { bias: true }));
}

/** x / √(mean x² + epsilon) over the last axis of x [rows, size]. */
function unitSquares(x: Value, epsilon: number): Value {
  return mul(x, reciprocal(sqrt(add(reduceMean(mul(x, x), [1]), epsilon))));
}

/** Rotated a against rotated b: what depends on how far two places are apart, [length, length]. */
function toeplitz(weights: Weights, module: string, length: number): Value {
  return inScope(module, () => {
    const half = length / 2;
    const frequencies = Array.from({ length: half }, (_, i) => 10000 ** -(i / half));
    const angles = mul(column(length), constant(frequencies));
    const [sin, cos] = [apply(Sin, [angles]), apply(Cos, [angles])];
    const [a, b] = ["a", "b"].map((name) => {
      const [first, second] = split(weights(`${module}.${name}`), [half, half], 0) as unknown as [Value, Value];
      return concat([sub(mul(first, cos), mul(second, sin)), add(mul(second, cos), mul(first, sin))], 1);
    }) as [Value, Value]; // two names
    return matmul(a, transpose(b, [1, 0]));
  });
}

/** The generalised mean with p = 3 over characters, above their least: [batch·length, hidden] -> [batch, hidden]. */
function pooled({ hiddenSize, length }: RetsimConfig, { hidden, batch, inputs }: Encoded): Value {
  return inScope("mean_pooling", () => {
    const rows = reshapeTo(hidden, [batch, length, hiddenSize], inputs);
    const least = apply(ReduceMin, [rows, constant([1], "int64")]);
    const above = add(sub(rows, least), 1);
    const mean = pow(reduceMean(mul(mul(above, above), above), [1]), 1 / 3);
    return squeeze(sub(add(mean, least), 1), [1]);
  });
}
