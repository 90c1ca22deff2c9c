import { assert, TuneError } from "../errors.ts";
import { graph, type Tensor, tensor, type Value } from "../graph/index.ts";
import { type Adapter, attach, checkParameters } from "../methods/index.ts";
import type { ModelSizes, PretrainedModel } from "../models/index.ts";
import type { Device } from "../runtime/device.ts";
import { compileGraph } from "../runtime/program.ts";
import { fold } from "../transforms/index.ts";

/** A model ready to continue token sequences on a device, with or without an adapter. */
export interface Decoder {
  readonly sizes: ModelSizes;
  /**
   * Read prompts, side by side, and get ready to continue them.
   * @throws {TuneError} `prompt-too-long` when one does not fit the context, `empty-prompt` when one has no token.
   */
  start(prompts: readonly (readonly number[])[]): Promise<Continuation>;
  /** Free the program and its buffers; the device stays open. */
  close(): Promise<void>;
}

/** Sequences in the middle of decoding. Their keys and values stay on the device. */
export interface Continuation {
  /** Scores of the next token of each sequence: float32 [vocab] each. */
  readonly logits: readonly Float32Array[];
  /** Tokens that the context still has room for. */
  readonly room: number;
  /** Append one token to each sequence. */
  next(tokens: readonly number[]): Promise<Continuation>;
  /** Free the keys and values. */
  end(): Promise<void>;
}

/**
 * Compile the decoding graph of a model on a device.
 * @throws {TuneError} `adapter-mismatch` when the adapter was made for another model.
 */
export async function openDecoder(device: Device, model: PretrainedModel, adapter?: Adapter): Promise<Decoder> {
  const open = model.decode({ logits: "last" });
  const attached = adapter && attachAdapter(open.outputs, adapter, model);
  const outputs = attached?.outputs ?? open.outputs;
  const names = Object.keys(outputs);
  const folded = fold(Object.values(outputs));
  const closed = graph({
    name: "decode",
    inputs: open.inputs,
    outputs: new Map(names.map((name, i) => [name, folded[i] as Value])), // one value a name
  });
  const program = await compileGraph(device, closed, { residentOutputs: names.filter((name) => name !== "logits") });
  const prefix = `decoder ${++opened}`;
  const parameterReads: Record<string, string> = {};
  for (const { value } of attached?.trainables ?? []) {
    const buffer = `${prefix} ${value.name}`;
    const values = adapter?.parameters.get(value.name);
    assert(values !== undefined, "checkParameters has found every parameter");
    await device.upload(buffer, values);
    parameterReads[value.name] = buffer;
  }
  const { layers, kvHeads, headDim, contextLength, vocabSize } = model.sizes;
  const parts = Array.from({ length: layers }, (_, i) => [`${i}.key`, `${i}.value`]).flat();
  let started = 0;

  const start = async (prompts: readonly (readonly number[])[]): Promise<Continuation> => {
    const longest = Math.max(0, ...prompts.map(({ length }) => length));
    refusePrompts(prompts, longest, contextLength);
    const batch = prompts.length;
    const padding = prompts.map(({ length }) => longest - length);
    const cache = `${prefix} cache ${++started}`;
    const buffers = Object.fromEntries(parts.map((part) => [part, `${cache} ${part}`]));

    const run = async (ids: readonly (readonly number[])[], past: number): Promise<Continuation> => {
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

  return {
    sizes: model.sizes,
    start,
    close: async () => {
      await program.release();
      await device.discard(Object.values(parameterReads));
    },
  };
}

let opened = 0;

function attachAdapter(
  outputs: Readonly<Record<string, Value>>,
  adapter: Adapter,
  model: PretrainedModel,
): ReturnType<typeof attach> {
  const outputModule = model.architecture.outputModule;
  const attached = attach(outputs, { ...adapter, outputModule, training: false });
  checkParameters(attached.trainables, adapter.parameters, model.folder);
  return attached;
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
