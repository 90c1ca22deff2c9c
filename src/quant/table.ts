import { nearest, TuneError } from "../errors.ts";
import { type Fields, resolveFields } from "../fields.ts";
import { bcq } from "./bcq.ts";
import { gptq } from "./gptq.ts";
import { rtn } from "./rtn.ts";
import type { Scheme } from "./scheme.ts";
import { shiftadd } from "./shiftadd.ts";

/** A scheme's options, all of them settled. */
export type SchemeConfig = Readonly<Record<string, number | boolean | string>>;

// A scheme's config is its own; here schemes are only asked for what every scheme has, with the config they resolved.
type AnyScheme = Scheme<SchemeConfig>;
const all = [shiftadd, gptq, bcq, rtn] as unknown as readonly AnyScheme[]; // see above

/** Every scheme by name. Adding one is one line above. */
export const schemes: ReadonlyMap<string, AnyScheme> = new Map(all.map((scheme) => [scheme.name, scheme]));

/** A scheme with its options settled. */
export interface SchemeChoice {
  readonly scheme: AnyScheme;
  readonly config: SchemeConfig;
}

/**
 * Choose a scheme by name and settle its options.
 * @throws {TuneError} `unknown-scheme`, or `bad-option` listing every problem.
 */
export function chooseScheme(name: string, options: Partial<SchemeConfig> = {}): SchemeChoice {
  const scheme = schemes.get(name);
  if (!scheme) {
    const near = nearest(name, schemes.keys());
    throw new TuneError("unknown-scheme", `There is no quantisation scheme "${name}".`, {
      at: "method",
      fix: `use one of ${[...schemes.keys()].join(", ")}${near[0] ? ` (nearest: ${near[0]})` : ""}`,
    });
  }
  const fields = scheme.fields as Fields<SchemeConfig>; // checked field by field
  const config = resolveFields(name, fields, options as SchemeConfig, schemes.values());
  return { scheme, config };
}

/** Check a number of planes. @throws {TuneError} `bad-option`. */
export function checkBits(bits: number): number {
  if (Number.isInteger(bits) && bits >= 1 && bits <= 8) return bits;
  throw new TuneError("bad-option", `bits is ${bits}, but it must be a whole number from 1 to 8.`, {
    at: "bits",
    fix: "use 2, 3 or 4, or an average such as mixed:2.2",
  });
}
