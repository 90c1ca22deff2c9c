import { type ChildProcessByStdio, spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { fileURLToPath } from "node:url";
import { compiled } from "./compiled.ts";

/** One update: a batch of token sequences, with the loss on what follows each prompt. */
export interface Job {
  readonly examples: readonly { readonly ids: readonly number[]; readonly prompt: number }[];
  readonly learning_rate: number;
}

/** What a side says of one update. */
export interface Answer {
  readonly ms: number;
  readonly loss: number;
  readonly peak_bytes: number;
  /** Tokens that were computed, padding included. */
  readonly computed_tokens: number;
}

/** A process that trains, and answers one line with one line. */
export class Side {
  readonly name: string;
  readonly answers: Answer[] = [];
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #lines: AsyncIterator<string>;
  constructor(name: string, command: string, args: readonly string[]) {
    this.name = name;
    this.#child = spawn(command, args, { stdio: ["pipe", "pipe", "inherit"] });
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }
  async step(job: Job): Promise<void> {
    this.#child.stdin.write(`${JSON.stringify(job)}\n`);
    const { value, done } = await this.#lines.next();
    if (done) throw new Error(`${this.name} ended before it answered`);
    this.answers.push(JSON.parse(value) as Answer); // the protocol of both sides
  }
  end(): void {
    this.#child.stdin.end();
  }
}

/** Scion, and PEFT when its Python is given, on the model and adapter that `writeInputs` made in a folder. */
export async function openSides(
  folder: string,
  { threads, memory, python }: { threads: string; memory: string; python?: string | undefined },
): Promise<readonly Side[]> {
  const args = [join(folder, "model"), join(folder, "adapter"), threads];
  const here = (file: string): string => fileURLToPath(new URL(file, import.meta.url));
  const sides = [new Side("scion", process.execPath, [await compiled("side-scion"), ...args, memory])];
  if (python) sides.push(new Side("peft", python, [here("side_peft.py"), ...args]));
  return sides;
}

/** Largest difference of the losses, relative; 0 where there is no peer. */
export function worstLossDifference([ours, peer]: readonly Side[]): number {
  const differences = (peer?.answers ?? []).map(({ loss }, i) =>
    Math.abs(loss / (ours?.answers[i]?.loss ?? Number.NaN) - 1),
  );
  return Math.max(0, ...differences);
}
