import { assert, nearest, TuneError } from "../errors.ts";
import { type Tensor, tensor, type Value } from "../graph/index.ts";
import { type Adapter, attach, attachSideBySide, checkParameters, type SideBySide } from "../methods/index.ts";
import type { ModelSizes, PretrainedModel } from "../models/index.ts";
import type { Device } from "../runtime/device.ts";
import { onShare } from "../runtime/device-share.ts";
import { compileGraph } from "../runtime/program.ts";
import { roughKernelsOf } from "../runtime/provider.ts";
import { type BaseWeightsName, heldGraph } from "../train/base-weights.ts";
import { fold, precise } from "../transforms/index.ts";

/** A model ready to continue token sequences on a device, with or without an adapter. */
export interface Decoder {
  readonly sizes: ModelSizes;
  /**
   * Read prompts, side by side, and get ready to continue them.
   * @throws {TuneError} `prompt-too-long` when one does not fit the context, `empty-prompt` when one has no token.
   */
  start(prompts: readonly (readonly number[])[], options?: StartOptions): Promise<Continuation>;
  /** Free the program, caches and adapters; the device stays open. What is started or continued later rejects with `session-closed`. */
  close(): Promise<void>;
}

/** How sequences are continued. */
export interface StartOptions {
  /** The adapter that acts, by name, or null for none; the first unless given. */
  readonly use?: string | null;
}

/** Sequences in the middle of decoding. Their keys and values stay on the device. */
export interface Continuation {
  /** Scores of the next token of each sequence: float32 [vocab] each. */
  readonly logits: readonly Float32Array[];
  /** Tokens that the context still has room for. */
  readonly room: number;
  /** Append one token to each sequence. */
  next(tokens: readonly number[]): Promise<Continuation>;
  /** Free the keys and values; closing the decoder does too. */
  end(): Promise<void>;
}

/** How a model is made ready. */
export interface DecoderOptions {
  /** How frozen weights are held; in float32 unless given. */
  readonly baseWeights?: BaseWeightsName;
}

/**
 * Compile the decoding graph of a model on a device, with an adapter or several, of which each sequence uses one.
 * @throws {TuneError} `adapter-mismatch` when an adapter was made for another model.
 */
export function openDecoder(
  device: Device,
  model: PretrainedModel,
  adapters: Adapter | ReadonlyMap<string, Adapter> = new Map(),
  options: DecoderOptions = {},
): Promise<Decoder> {
  return onShare(device, (share) => makeDecoder(share, model, adapters, options));
}

/** The same on a device, or a share of one, that the decoder has for itself and closes. */
async function makeDecoder(
  device: Device,
  model: PretrainedModel,
  adapters: Adapter | ReadonlyMap<string, Adapter>,
  { baseWeights }: DecoderOptions,
): Promise<Decoder> {
  const named = adapters instanceof Map ? adapters : new Map([["adapter", adapters as Adapter]]); // one or the other
  const open = model.decode({ logits: "last" });
  const attached = attachAdapters(open.outputs, named, model);
  const names = Object.keys(attached.outputs);
  const folded = precise(fold(Object.values(attached.outputs)), roughKernelsOf(device.provider));
  const outputs = Object.fromEntries(names.map((name, i) => [name, folded[i] as Value])); // one value a name
  const closed = heldGraph(baseWeights, { name: "decode", inputs: open.inputs, outputs });
  const program = await compileGraph(device, closed, { residentOutputs: names.filter((name) => name !== "logits") });
  const readsOf = placeAdapters(device, attached);
  const [first] = named.keys();
  await readsOf(first);
  const { layers, kvHeads, headDim, contextLength, vocabSize, cacheHoldsTo } = model.sizes;
  const parts = Array.from({ length: layers }, (_, i) => [`${i}.key`, `${i}.value`]).flat();
  let started = 0;

  const start = async (
    prompts: readonly (readonly number[])[],
    { use = first ?? null }: StartOptions = {},
  ): Promise<Continuation> => {
    if (use !== null && !named.has(use)) throw unknownAdapter(use, [...named.keys()]);
    const parameterReads = await readsOf(use ?? undefined);
    const longest = Math.max(0, ...prompts.map(({ length }) => length));
    refusePrompts(prompts, longest, contextLength);
    const batch = prompts.length;
    const padding = prompts.map(({ length }) => longest - length);
    const cache = `cache ${++started}`;
    const buffers = Object.fromEntries(parts.map((part) => [part, `${cache} ${part}`]));

    /** The tokens of each row so far, where the cache may have to be computed anew of them. */
    let written: readonly (readonly number[])[] = [];

    const run = async (ids: readonly (readonly number[])[], past: number): Promise<Continuation> => {
      if (cacheHoldsTo !== undefined) {
        written = past === 0 ? ids : ids.map((row, i) => [...(written[i] ?? []), ...row]);
        const grown = past + (ids[0]?.length ?? 0);
        if (past > 0 && past <= cacheHoldsTo && grown > cacheHoldsTo) return run(written, 0);
      }
      const seq = ids[0]?.length ?? 0;
      const total = past + seq;
      const feeds: Record<string, Tensor> = {
        input_ids: tensor("int64", [batch, seq], ids.flat()),
        // A row's tokens count from its first real one; padding on the left is masked and gets position 0.
        position_ids: tensor(
          "int64",
          [batch, seq],
          padding.flatMap((pad) => columns(seq, (j) => Math.max(0, past + j - pad))),
        ),
        attention_mask: tensor(
          "int64",
          [batch, total],
          padding.flatMap((pad) => columns(total, (j) => Number(j >= pad))),
        ),
      };
      const reads: Record<string, string> = { ...parameterReads };
      for (const part of parts) {
        const input = `past_key_values.${part}`;
        if (past === 0) feeds[input] = tensor("float32", [batch, kvHeads, 0, headDim], []);
        else reads[input] = buffers[part] as string; // one buffer a part, above
      }
      const writes = Object.fromEntries(parts.map((part) => [`present.${part}`, buffers[part] as string])); // likewise
      const { logits } = await program.run({ feeds, reads, writes });
      assert(logits?.dtype === "float32", "logits are float32");
      const scores = logits.data as Float32Array; // as asserted
      return {
        logits: Array.from({ length: batch }, (_, i) => scores.subarray(i * vocabSize, (i + 1) * vocabSize)),
        room: contextLength - total,
        next: (tokens) =>
          run(
            tokens.map((token) => [token]),
            total,
          ),
        end: () => device.discard(Object.values(buffers)),
      };
    };
    return run(
      prompts.map((prompt, i) => [...columns(padding[i] ?? 0, () => 0), ...prompt]),
      0,
    );
  };

  return { sizes: model.sizes, start, close: () => device.close() };
}

function attachAdapters(
  outputs: Readonly<Record<string, Value>>,
  adapters: ReadonlyMap<string, Adapter>,
  model: PretrainedModel,
): SideBySide {
  const { outputModule } = model.architecture;
  for (const adapter of adapters.values()) {
    const { trainables } = attach(outputs, { ...adapter, outputModule, training: false });
    checkParameters(trainables, adapter.parameters, model.folder);
  }
  return attachSideBySide(outputs, adapters, outputModule);
}

/** Puts the values of adapters on the device when they are first used; one buffer for each tensor. */
function placeAdapters(
  device: Device,
  { values }: SideBySide,
): (name: string | undefined) => Promise<Readonly<Record<string, string>>> {
  const buffers = new Map<Tensor, string>();
  const known = new Map<string | undefined, Promise<Readonly<Record<string, string>>>>();
  const place = async (name: string | undefined): Promise<Readonly<Record<string, string>>> => {
    const reads: Record<string, string> = {};
    for (const [parameter, tensor] of await values(name)) {
      const buffer = buffers.get(tensor) ?? `${buffers.size} ${parameter}`;
      if (!buffers.has(tensor)) await device.upload(buffer, tensor);
      buffers.set(tensor, buffer);
      reads[parameter] = buffer;
    }
    return reads;
  };
  return (name) => {
    const reads = known.get(name) ?? place(name);
    known.set(name, reads);
    return reads;
  };
}

function unknownAdapter(name: string, known: readonly string[]): TuneError {
  const [near] = nearest(name, known, 1);
  return new TuneError("unknown-adapter", `There is no adapter "${name}"${near ? ` (nearest: ${near})` : ""}.`, {
    at: "the adapter to use",
    fix: known.length > 0 ? `use one of ${known.join(", ")}, or none` : "load an adapter first",
  });
}

function columns(count: number, at: (j: number) => number): number[] {
  return Array.from({ length: count }, (_, j) => at(j));
}

/**
 * Refuse prompts that cannot be continued.
 * @throws {TuneError} `empty-prompt`, or `prompt-too-long` when the longest leaves no room.
 */
export function refusePrompts(prompts: readonly (readonly number[])[], longest: number, contextLength: number): void {
  if (prompts.length === 0 || prompts.some(({ length }) => length === 0)) {
    throw new TuneError("empty-prompt", "There is nothing to continue.", { at: "the prompt", fix: "write some text" });
  }
  if (longest < contextLength) return;
  throw new TuneError(
    "prompt-too-long",
    `The prompt has ${longest} tokens; the model's context holds ${contextLength}.`,
    {
      at: "the prompt",
      fix: `shorten it to fewer than ${contextLength} tokens`,
    },
  );
}
