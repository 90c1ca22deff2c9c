import { dpStepPart } from "./dp-step.ts";
import { refactorPart } from "./refactor.ts";
import { serverPart } from "./server.ts";
import { wirePart } from "./wire.ts";

/** One measurement of `npm run bench:federated`. */
export interface BenchPart {
  readonly name: string;
  readonly title: string;
  readonly run: () => Promise<BenchResult>;
}

/** What it found. */
export interface BenchResult {
  readonly table: readonly string[];
  readonly data: unknown;
  /** Whether what is promised was met. */
  readonly holds: boolean;
}

/** Every part. Adding one is a file and a line here. */
export const parts: readonly BenchPart[] = [refactorPart, serverPart, wirePart, dpStepPart];
