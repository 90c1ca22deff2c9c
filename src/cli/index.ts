import type { Command } from "commander";
import type { Output } from "./output.ts";
import type { Given } from "./parsing.ts";

/** One command of `scion`: its flags, and what it does with them. */
export interface CliCommand {
  /** Declare flags, arguments and help. */
  readonly define: (command: Command) => void | Promise<void>;
  /** Carry it out and return the exit code; `given` names the flags that do not have their defaults. */
  readonly run: (flags: never, output: Output, args: readonly string[], given: Given) => Promise<number>;
}

/** Every command: what it is for, and its file, which is read only when the command is used. */
export const commands: Readonly<
  Record<string, { readonly summary: string; readonly load: () => Promise<CliCommand> }>
> = {
  tune: { summary: "tune a model on data", load: () => import("./tune.ts") },
  compare: { summary: "tune by several methods, rates and seeds, and compare", load: () => import("./compare.ts") },
  continual: { summary: "tune on several data sets in order", load: () => import("./continual.ts") },
  "federate simulate": {
    summary: "tune one adapter by many clients in this process",
    load: () => import("./federate-simulate.ts"),
  },
  "federate create": {
    summary: "set up a federation over NATS",
    load: () => import("./federate-create.ts"),
  },
  "federate invite": { summary: "invite a client to it, or withdraw one", load: () => import("./federate-invite.ts") },
  "federate serve": {
    summary: "coordinate a federation of clients far away",
    load: () => import("./federate-serve.ts"),
  },
  "federate join": {
    summary: "take part in a federation, with data that stay here",
    load: () => import("./federate-join.ts"),
  },
  "federate status": { summary: "say how a federation stands", load: () => import("./federate-status.ts") },
  "federate stop": { summary: "tell its coordinator to end after the round", load: () => import("./federate-stop.ts") },
  "federate report": { summary: "draw a federation as a page", load: () => import("./federate-report.ts") },
  plan: { summary: "say what tuning would take, before it starts", load: () => import("./plan.ts") },
  quantize: { summary: "pack a model's weights into 1 to 8 bits", load: () => import("./quantize.ts") },
  lr: { summary: "find a learning rate", load: () => import("./lr.ts") },
  generate: { summary: "continue a prompt", load: () => import("./generate.ts") },
  chat: { summary: "talk with a model", load: () => import("./chat.ts") },
  eval: { summary: "measure loss, perplexity and exact match", load: () => import("./eval.ts") },
  diagnose: { summary: "say what tuning did to the weights", load: () => import("./diagnose.ts") },
  mend: { summary: "scale the intruders of a tuned model down", load: () => import("./mend.ts") },
  combine: { summary: "add adapters up, with weights", load: () => import("./combine.ts") },
  merge: { summary: "fold an adapter into its model", load: () => import("./merge.ts") },
  export: {
    summary: "write a model for transformers.js, as safetensors, or an adapter for PEFT",
    load: () => import("./export.ts"),
  },
  runs: { summary: "list runs and compare them", load: () => import("./runs.ts") },
  privacy: { summary: "say what private training costs, or which noise it takes", load: () => import("./privacy.ts") },
  inspect: { summary: "say what a file or folder holds", load: () => import("./inspect.ts") },
};
