import { assert, TuneError } from "../errors.ts";
import { type Tensor, tensor } from "../graph/index.ts";

/** A text or an image as whole numbers: token ids, code points, or pixels as 0xRRGGBB. */
export interface Numbers {
  readonly inputIds: Int32Array;
  /** As long as `inputIds`: 0 for tokens of a first text, 1 for those of a second. */
  readonly typeIds?: Uint8Array;
}

/** Sequences laid side by side. */
export interface Fed {
  readonly feeds: Readonly<Record<string, Tensor>>;
  /** The sizes that the graph's symbols stand for. */
  readonly sizes: Readonly<Record<"batch" | "seq", number>>;
}

/** How texts or images become what a model reads. */
export interface InputForm {
  /** What the numbers of a sequence are. */
  readonly kind: "tokens" | "characters" | "pixels";
  /** Most numbers in a sequence; exactly this many where they are pixels. */
  readonly length: number;
  /** Whether positions are the rows of a table, so that nothing longer can be read at all. */
  readonly table?: true;
  /** Width and height of an image; 0 for text. */
  readonly imageSize: number;
  /** Lay sequences side by side; `padId` fills rows up. */
  readonly feed: (sequences: readonly Numbers[], padId: number) => Fed;
}

/**
 * Refuse a sequence that reaches beyond the table of positions, before anything runs.
 * @throws {TuneError} `sequence-too-long`.
 */
export function refuseLongerThan(positions: number, length: number): void {
  if (length <= positions) return;
  const what = `A sequence has ${length} tokens; the model's table of positions ends at ${positions}.`;
  throw new TuneError("sequence-too-long", what, {
    fix: `cut texts to ${positions} tokens (--max-length ${positions}), or use a model that reads longer ones`,
  });
}

/**
 * Token ids padded on the right: input_ids, attention_mask and, with `types`, token_type_ids, int64 [batch, seq]. With `table`
 * nothing longer can be laid out.
 */
export function tokenInputs(
  length: number,
  { types = false, table = false }: { readonly types?: boolean; readonly table?: boolean } = {},
): InputForm {
  return {
    kind: "tokens",
    length,
    ...(table ? { table } : {}),
    imageSize: 0,
    feed: (sequences, padId) => {
      const seq = sequences.reduce((most, { inputIds }) => Math.max(most, inputIds.length), 1);
      if (table) refuseLongerThan(length, seq);
      const shape = [sequences.length, seq];
      const [ids, mask, typeIds] = [padId, 0, 0].map((fill) => new Int32Array(sequences.length * seq).fill(fill)) as [
        Int32Array,
        Int32Array,
        Int32Array,
      ]; // three fillings
      for (const [row, sequence] of sequences.entries()) {
        ids.set(sequence.inputIds, row * seq);
        mask.fill(1, row * seq, row * seq + sequence.inputIds.length);
        if (sequence.typeIds) typeIds.set(sequence.typeIds, row * seq);
      }
      return {
        feeds: {
          input_ids: tensor("int64", shape, ids),
          attention_mask: tensor("int64", shape, mask),
          ...(types ? { token_type_ids: tensor("int64", shape, typeIds) } : {}),
        },
        sizes: { batch: sequences.length, seq },
      };
    },
  };
}

/** Code points, always `length` of them, 0 after the end of the text: input_ids int64 [batch, length]. */
export function characterInputs(length: number): InputForm {
  return {
    kind: "characters",
    length,
    imageSize: 0,
    feed: (sequences) => {
      const ids = new Int32Array(sequences.length * length);
      for (const [row, { inputIds }] of sequences.entries()) ids.set(inputIds.subarray(0, length), row * length);
      return {
        feeds: { input_ids: tensor("int64", [sequences.length, length], ids) },
        sizes: { batch: sequences.length, seq: length },
      };
    },
  };
}

/** How the values 0…255 of an image's channels become what a model was trained on: (value·scale − mean) / deviation. */
export interface PixelScale {
  readonly scale: number;
  readonly mean: readonly number[];
  readonly deviation: readonly number[];
}

/** Square images in red, green and blue: pixel_values float32 [batch, 3, size, size]. */
export function pixelInputs(size: number, { scale, mean, deviation }: PixelScale): InputForm {
  const pixels = size * size;
  return {
    kind: "pixels",
    length: pixels,
    imageSize: size,
    feed: (sequences) => {
      const values = new Float32Array(sequences.length * 3 * pixels);
      for (const [row, { inputIds }] of sequences.entries()) {
        assert(inputIds.length === pixels, () => `an image has ${inputIds.length} pixels, not ${pixels}`);
        for (let channel = 0; channel < 3; channel++) {
          const [shift, start] = [16 - 8 * channel, (3 * row + channel) * pixels];
          const [centre = 0, spread = 1] = [mean[channel], deviation[channel]];
          for (let i = 0; i < pixels; i++) {
            const value = ((inputIds[i] ?? 0) >> shift) & 255;
            values[start + i] = (value * scale - centre) / spread;
          }
        }
      }
      return {
        feeds: { pixel_values: tensor("float32", [sequences.length, 3, size, size], values) },
        sizes: { batch: sequences.length, seq: pixels },
      };
    },
  };
}
