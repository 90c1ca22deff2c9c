import { awq } from "./awq.ts";
import { bitsandbytes4bit } from "./bitsandbytes-4bit.ts";
import { bitsandbytesInt8 } from "./bitsandbytes-int8.ts";
import type { QuantisedFormat } from "./format.ts";
import { gptq } from "./gptq.ts";
import { mlx } from "./mlx.ts";
import { packedIntegers } from "./packed-integers.ts";
import { float8Scaled, int8Scaled } from "./scaled.ts";

/** Every format of quantised checkpoints that is read. A module is of the first that matches. */
export const quantisedFormats: readonly QuantisedFormat[] = [
  bitsandbytesInt8,
  bitsandbytes4bit,
  gptq,
  awq,
  packedIntegers,
  int8Scaled,
  float8Scaled,
  mlx,
];
