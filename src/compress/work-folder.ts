import { TuneError } from "../errors.ts";
import { isJsonObject, readJsonObject } from "../io/json.ts";
import { checkClaim, claimFolder, type FolderClaim, removeClaimed } from "../io/outputs/index.ts";
import { openPacked, type PackedEntry, type PackedToWrite, writePacked } from "../io/packed/index.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import { checkFingerprint } from "../train/checkpoint.ts";
import type { BitPlan, MatrixReport } from "./quantise-model.ts";

/** Where the blocks that are done wait for the others: a run that was killed goes on from them. */
export interface WorkFolder {
  readPlan(): Promise<BitPlan | undefined>;
  writePlan(plan: BitPlan): Promise<void>;
  /** A block that an earlier run finished. */
  readBlock(index: number): Promise<FinishedBlock | undefined>;
  /** Keep a block; what is returned is read from the disk when it is needed. */
  writeBlock(
    index: number,
    matrices: readonly PackedToWrite[],
    reports: readonly MatrixReport[],
  ): Promise<readonly PackedEntry[]>;
  /** Remove the folder: the model has been written. */
  remove(): Promise<void>;
}

const workClaim: FolderClaim = {
  kind: "quantize-work",
  names: ["state.json", "plan.json", "block-*.safetensors", "untuned/", "tuning/"],
};

/** A block and what was reported of it. */
export interface FinishedBlock {
  readonly matrices: readonly PackedEntry[];
  readonly reports: readonly MatrixReport[];
}

/**
 * Open the work folder of a run, or start one. Every file in it takes its name when it is whole.
 * @throws {TuneError} `output-exists` when it holds something else; `run-exists` when it holds a run and `resume` is not asked for; `resume-mismatch` when that was
 * started with other settings, model or text.
 */
export async function openWorkFolder(
  storage: Storage,
  folder: string,
  fingerprint: Readonly<Record<string, unknown>>,
  { resume }: { readonly resume: boolean },
): Promise<WorkFolder> {
  const statePath = joinPath(folder, "state.json");
  const claim = { ...workClaim, fresh: !resume };
  const { inWay } = await checkClaim(storage, folder, claim);
  let started = !inWay.includes("state.json") && (await storage.sizeBytes(statePath)) !== undefined;
  // Nothing is left behind by a run that is refused before it has done anything.
  const start = async (): Promise<void> => {
    if (!started) await claimFolder(storage, folder, claim);
    if (!started) await storage.write(statePath, `${JSON.stringify(fingerprint, null, 2)}\n`);
    started = true;
  };
  if (started && !resume) {
    throw new TuneError("run-exists", "An earlier run was stopped before it had quantised the whole model.", {
      at: folder,
      fix: "go on with it (resume), let it be replaced (replace), or choose another output folder",
    });
  }
  if (started) {
    checkFingerprint(await readJsonObject(storage, statePath), JSON.parse(JSON.stringify(fingerprint)), statePath);
  }
  const planPath = joinPath(folder, "plan.json");
  const blockPath = (index: number): string => joinPath(folder, `block-${String(index).padStart(4, "0")}.safetensors`);
  const readBlock = async (index: number): Promise<FinishedBlock | undefined> => {
    if ((await storage.sizeBytes(blockPath(index))) === undefined) return undefined;
    const { matrices, info } = await openPacked(storage, blockPath(index));
    // The file is ours, and whole: it is written under another name and renamed.
    return { matrices: [...matrices.values()], reports: info["reports"] as readonly MatrixReport[] };
  };
  return {
    readPlan: async () => {
      if ((await storage.sizeBytes(planPath)) === undefined) return undefined;
      const plan = await readJsonObject(storage, planPath);
      return isJsonObject(plan) ? (plan as unknown as BitPlan) : undefined; // as above
    },
    writePlan: async (plan) => {
      await start();
      await storage.write(planPath, `${JSON.stringify(plan, null, 2)}\n`);
    },
    readBlock,
    writeBlock: async (index, matrices, reports) => {
      await start();
      await writePacked(storage, blockPath(index), { info: { reports }, matrices, tensors: [] });
      return (await readBlock(index))?.matrices ?? [];
    },
    remove: () => removeClaimed(storage, folder, workClaim.kind),
  };
}
