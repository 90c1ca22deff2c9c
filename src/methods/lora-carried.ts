import { add, gemm, mul } from "../ops/index.ts";
import { type LoraConfig, lora, loraMatrices, loraOutput, loraScale, loraUpdate } from "./lora.ts";
import { defineMethod, type Method } from "./method.ts";

/**
 * LoRA beside a dense update R [out, in] that training leaves as it is: y = Wx + (alpha/rank)·(R + B·A)·x. Federations need it
 * where something leaves the factors for the weights between rounds, so that one compiled step serves all rounds. It is no
 * method to choose: what comes of it is written as plain LoRA.
 */
export const carriedLora: Method<LoraConfig> = defineMethod<LoraConfig>({
  name: "carried-lora",
  summary: "LoRA beside a dense update that stays as it is",
  fields: lora.fields,
  attaches: "linear",
  parameters: (site, config) => ({
    ...loraMatrices(site, config),
    R: {
      shape: [site.outFeatures, site.inFeatures],
      initial: (_rng, size) => new Float32Array(size),
      trained: false,
    },
  }),
  ...(lora.check ? { check: lora.check } : {}),
  adapt: ({ x, y, dropout }, parameter, config) => {
    const carried = gemm(x, parameter("R"), { transB: true, alpha: loraScale(config) });
    return add(add(y, carried), loraOutput(dropout(x, config.dropout), parameter, config));
  },
  merge: (weight, parameter, config) =>
    add(weight, add(mul(loraScale(config), parameter("R")), loraUpdate(parameter, config))),
});
