import { TuneError } from "../errors.ts";
import { hashFile } from "../io/content-hash.ts";
import { isJsonObject, readJsonObject } from "../io/json.ts";
import { checkClaim, claimFolder, type FolderClaim, removeClaimed } from "../io/outputs/index.ts";
import { openPacked, type PackedEntry, type PackedToWrite, writePacked } from "../io/packed/index.ts";
import { damaged, readSealed, writeSealed } from "../io/sealed.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import { checkFingerprint } from "../train/fingerprint.ts";
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

const planName = "plan.json";

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
 * @throws {TuneError} `output-exists` when it holds something else; `run-exists` when it holds a run and `resume` is not
 * asked for; `resume-mismatch` when that was started with other settings, model or text; `bad-checkpoint` when a file of it
 * is not as it was written.
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
    if (!started) await writeState();
    started = true;
  };
  const writeState = (): Promise<void> =>
    writeSealed(storage, statePath, { fingerprint, files: Object.fromEntries(done) });
  if (started && !resume) {
    throw new TuneError("run-exists", "An earlier run was stopped before it had quantised the whole model.", {
      at: folder,
      fix: "go on with it (resume), let it be replaced (replace), or choose another output folder",
    });
  }
  const done = new Map<string, string>();
  if (started) {
    const { fingerprint: saved, files } = (await readSealed(storage, statePath)) ?? {};
    if (!isJsonObject(saved) || !isJsonObject(files)) throw damaged(statePath);
    checkFingerprint(saved, fingerprint, statePath);
    for (const [name, hash] of Object.entries(files)) done.set(name, String(hash));
  }
  /** Note that a file is whole, and what it holds: what is not noted is made again. */
  const note = async (name: string): Promise<void> => {
    done.set(name, await hashFile(storage, joinPath(folder, name)));
    await writeState();
  };
  /** Whether a file is there as it was noted. @throws {TuneError} `bad-checkpoint`. */
  const isThere = async (name: string): Promise<boolean> => {
    const hash = done.get(name);
    const path = joinPath(folder, name);
    if (hash === undefined) return false;
    if ((await storage.sizeBytes(path)) === undefined || (await hashFile(storage, path)) !== hash) throw damaged(path);
    return true;
  };
  const blockName = (index: number): string => `block-${String(index).padStart(4, "0")}.safetensors`;
  const openBlock = async (index: number): Promise<FinishedBlock> => {
    const { matrices, info } = await openPacked(storage, joinPath(folder, blockName(index)));
    return { matrices: [...matrices.values()], reports: info["reports"] as readonly MatrixReport[] }; // as it was written
  };
  return {
    readPlan: async () => {
      if (!(await isThere(planName))) return undefined;
      return (await readJsonObject(storage, joinPath(folder, planName))) as unknown as BitPlan; // as it was written
    },
    writePlan: async (plan) => {
      await start();
      await storage.write(joinPath(folder, planName), `${JSON.stringify(plan, null, 2)}\n`);
      await note(planName);
    },
    readBlock: async (index) => ((await isThere(blockName(index))) ? openBlock(index) : undefined),
    writeBlock: async (index, matrices, reports) => {
      await start();
      await writePacked(storage, joinPath(folder, blockName(index)), { info: { reports }, matrices, tensors: [] });
      await note(blockName(index));
      return (await openBlock(index)).matrices;
    },
    remove: () => removeClaimed(storage, folder, workClaim.kind),
  };
}
