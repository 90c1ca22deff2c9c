import { encodeText } from "../encode.ts";
import { checkText, type DataFormat } from "./format.ts";

/** A text to continue. */
export const text: DataFormat = {
  name: "text",
  keys: ["text"],
  optionalKeys: [],
  example: '{"text": "…"}',
  check: (row) => checkText(row, "text"),
  encoder: (context) => (row) => encodeText(String(row["text"]), context),
};
