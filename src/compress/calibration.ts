import { TuneError } from "../errors.ts";
import { type Tensor, tensor } from "../graph/index.ts";
import { makeBatch, type Sequence } from "../train/data/index.ts";

/** Calibration text as tokens, a batch at a time. */
export interface CalibrationBatch {
  /** input_ids and position_ids int64 [batch, seq]. */
  readonly feeds: Readonly<Record<"input_ids" | "position_ids", Tensor<"int64">>>;
  /** int64 [tokens]: the flat places that are no padding. */
  readonly rows: Tensor<"int64">;
}

/** How calibration text is laid out. */
export interface CalibrationOptions {
  readonly padId: number;
  /** Inputs of the widest linear map, which decide how many tokens are needed. */
  readonly widest: number;
  /** Tokens in a batch, about; 4096 unless given. */
  readonly batchTokens?: number;
}

/** Tokens that determine the statistics of a layer's inputs well, as a multiple of their number. */
const comfortable = 8;

/** What there is to calibrate on. */
export interface Calibration {
  readonly batches: readonly CalibrationBatch[];
  readonly tokens: number;
  /** Tokens below which statistics are poor and damping decides much; see `warning`. */
  readonly comfortableTokens: number;
}

/**
 * Lay calibration sequences out, one a row, those of like length together.
 * @throws {TuneError} `bad-calibration` when there are fewer tokens than the widest layer has inputs, naming how many
 * are needed.
 */
export function layOutCalibration(
  sequences: readonly Sequence[],
  { padId, widest, batchTokens = 4096 }: CalibrationOptions,
): Calibration {
  const tokens = sequences.reduce((sum, { inputIds }) => sum + inputIds.length, 0);
  const comfortableTokens = comfortable * widest;
  if (tokens < widest) {
    throw new TuneError(
      "bad-calibration",
      `The calibration text has ${tokens} tokens, and the widest layer has ${widest} inputs.`,
      {
        at: "calibration",
        fix: `give at least ${widest} tokens, better ${comfortableTokens} or more`,
      },
    );
  }
  const sorted = sequences.toSorted((a, b) => a.inputIds.length - b.inputIds.length);
  const batches: CalibrationBatch[] = [];
  let pending: Sequence[] = [];
  const flush = (): void => {
    if (pending.length > 0) batches.push(batchOf(pending, padId));
    pending = [];
  };
  for (const sequence of sorted) {
    pending.push(sequence);
    if (pending.length * sequence.inputIds.length >= batchTokens) flush();
  }
  flush();
  return { batches, tokens, comfortableTokens };
}

function batchOf(sequences: readonly Sequence[], padId: number): CalibrationBatch {
  const { feeds } = makeBatch(sequences, { padId });
  const width = feeds.input_ids.shape[1] ?? 0;
  const rows = sequences.flatMap(({ inputIds }, row) => Array.from(inputIds, (_, i) => row * width + i));
  const { input_ids, position_ids } = feeds;
  return { feeds: { input_ids, position_ids }, rows: tensor("int64", [rows.length], rows) };
}
