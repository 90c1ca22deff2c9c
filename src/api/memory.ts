import { TuneError } from "../errors.ts";
import type { Footprint } from "../plan/footprint.ts";
import type { Device } from "../runtime/device.ts";
import { type BaseWeightsName, baseWeights, weightBytes } from "../train/base-weights.ts";
import { graphsOf, memoryOf, type PlanOptions } from "../train/plan.ts";
import type { RunOptions } from "../train/run.ts";
import type { LoadedModel } from "./load-model.ts";
import { findRemedy } from "./plan.ts";

/** Providers that compute in this process's own memory. */
const inProcess: ReadonlySet<string> = new Set(["cpu", "wasm"]);

/**
 * Looks at a run's graphs, once they are built and before a weight is read: what a plan says of memory, without the time
 * that it would take to plan.
 * @returns nothing where memory cannot be planned: on a GPU.
 */
export function admission(
  { platform }: LoadedModel,
  run: PlanOptions,
  { provider }: Pick<Device, "provider">,
): NonNullable<RunOptions["admit"]> | undefined {
  if (!inProcess.has(provider)) return undefined;
  return (graphs) => {
    const { processBytes, availableBytes } = platform.memory();
    const takes = ({ peakBytes }: Footprint): number => peakBytes - processBytes;
    const planned = memoryOf(run, graphs, processBytes);
    if (takes(planned) <= availableBytes) return;
    const remedy = findRemedy(
      run,
      (changed) => memoryOf(changed, graphsOf(changed), processBytes),
      (other) => takes(other) <= availableBytes,
    );
    throw new TuneError(
      "not-enough-memory",
      `The run would take ${size(takes(planned))} beside what the process holds, and ${size(availableBytes)} are free.`,
      {
        at: "memory",
        fix: `${
          remedy
            ? `this fits, with ${size(takes(remedy.plan))}: ${settingsText(remedy.settings)}`
            : "nothing short of a smaller model would fit"
        }; scion plan says more, and ignoreMemory (--ignore-memory) goes on anyway`,
      },
    );
  };
}

/** Settings as people read them: `memory small, batchSize 4`. */
export function settingsText(settings: Readonly<Record<string, unknown>>): string {
  return Object.entries(settings)
    .flatMap(([name, value]) => (typeof value === "object" && value !== null ? Object.entries(value) : [[name, value]]))
    .map(([name, value]) => `${String(name)} ${String(value)}`)
    .join(", ");
}

/**
 * Refuse what takes more memory than is free.
 * @param bytes that it holds at once; all weights, as `baseWeights` holds them, unless given.
 * @param fix what would help; for weights, another model or packing this one.
 * @throws {TuneError} `not-enough-memory`.
 */
export function refuseTooLarge(
  { pretrained, platform, source }: LoadedModel,
  {
    doing,
    baseWeights: held = "f32",
    bytes,
    fix = "choose a smaller model, or pack it (scion quantize) where there is room",
  }: {
    readonly doing: string;
    readonly baseWeights?: BaseWeightsName | undefined;
    readonly bytes?: number;
    readonly fix?: string;
  },
): void {
  const { availableBytes } = platform.memory();
  const takes = bytes ?? (weightBytes(pretrained) * baseWeights[held].bits) / 32;
  if (takes <= availableBytes) return;
  throw new TuneError(
    "not-enough-memory",
    `${doing} takes ${size(takes)}${bytes === undefined ? " for weights alone" : ""}, and ${size(availableBytes)} are free.`,
    { at: source, fix: `${fix}; ignoreMemory (--ignore-memory) goes on anyway` },
  );
}

function size(bytes: number): string {
  return bytes < 1e8 ? `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}
