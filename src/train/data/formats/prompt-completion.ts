import { encodePair } from "../encode.ts";
import { checkText, type DataFormat } from "./format.ts";

/** A prompt and what follows it, joined as they are. */
export const promptCompletion: DataFormat = {
  name: "prompt/completion",
  keys: ["prompt", "completion"],
  optionalKeys: [],
  example: '{"prompt": "…", "completion": "…"}',
  check: (row) => checkText(row, "prompt") ?? checkText(row, "completion"),
  encoder: (context) => (row) =>
    encodePair({ prompt: String(row["prompt"]), completion: String(row["completion"]) }, context),
};
