import { checkClaim, claimFolder, type FolderClaim } from "../io/outputs/index.ts";
import type { Storage } from "../io/storage.ts";
import { runFolder } from "../train/run.ts";

/** Folders that commands go on writing to, by what they hold. Each is claimed before anything is written into it. */
export const outputFolders: Readonly<Record<OutputFolder, FolderClaim>> = {
  run: runFolder,
  comparison: { kind: "comparison", names: ["comparison.json", "comparison.md", "comparison.svg"] },
  continual: { kind: "continual", names: ["continual.json"] },
  "quantize-comparison": { kind: "quantize-comparison", names: [] },
  federation: {
    kind: "federation",
    names: [
      "state.json",
      "objects/",
      "metrics.jsonl",
      "events.out.tfevents.*",
      "run.json",
      "report.html",
      "adapter/",
      "clients/",
    ],
  },
  "federation-setup": {
    kind: "federation-setup",
    names: ["federation.json", "nats*.conf", "nats*.pid", "jetstream/", "jetstream-*/"],
  },
  "federation-client": { kind: "federation-client", names: ["adapter/", "*.key"] },
  "federation-comparison": {
    kind: "federation-comparison",
    names: ["comparison.json", "comparison.md", "report.html"],
  },
  diagnosis: {
    kind: "diagnosis",
    names: ["diagnosis.json", "report.html", "counts.svg", "similarity.svg", "spectra.svg", "progress.jsonl"],
  },
  attention: { kind: "attention", names: ["attention.json", "report.html", "heads.svg", "degrees.svg"] },
};

/** What a claimed folder holds. */
export type OutputFolder =
  | "run"
  | "comparison"
  | "continual"
  | "quantize-comparison"
  | "federation"
  | "federation-setup"
  | "federation-client"
  | "federation-comparison"
  | "diagnosis"
  | "attention";

/**
 * Check that a command may write into a folder, before anything long is done.
 * @throws {TuneError} `output-exists`, `output-is-input`, `output-is-file`.
 */
export async function checkOutput(storage: Storage, folder: string, holds: OutputFolder): Promise<void> {
  await checkClaim(storage, folder, outputFolders[holds]);
}

/** Claim a folder, with further names of files and folders (these end in `/`). @throws {TuneError} as {@link checkOutput}. */
export async function claimOutput(
  storage: Storage,
  folder: string,
  holds: OutputFolder,
  { names = [], fresh = false }: { readonly names?: readonly string[]; readonly fresh?: boolean } = {},
): Promise<void> {
  const claim = outputFolders[holds];
  await claimFolder(storage, folder, { kind: claim.kind, names: [...claim.names, ...names], fresh });
}
