import { packedFileName } from "../packed/index.ts";
import { type Parts, type RefusedFormat, saveDequantised } from "./format.ts";

const some =
  (...names: readonly string[]) =>
  (parts: Parts): boolean =>
    names.some((name) => parts.has(name));
const every =
  (...names: readonly string[]) =>
  (parts: Parts): boolean =>
    names.every((name) => parts.has(name));
const never = (): boolean => false;
const original = "use the model's own repository, from before it was quantised";

/** Formats whose codes take more than a formula to read (codebooks, rotations, other scales), by what their tensors are called. */
export const refusedFormats: readonly RefusedFormat[] = [
  // Before BitNet, whose tensors it has too.
  {
    name: "NVFP4",
    methods: ["modelopt", "nvfp4"],
    matches: (parts) => parts.has("weight_scale_2") || parts.has("weight_global_scale"),
    mend: original,
  },
  { name: "AQLM", methods: ["aqlm"], matches: every("codes", "codebooks"), mend: original },
  { name: "BitNet", methods: ["bitnet"], matches: codesOf("weight", "uint8", "weight_scale"), mend: original },
  { name: "EETQ", methods: ["eetq"], matches: some("weight_scales"), mend: original },
  {
    name: "EXL2 or EXL3",
    methods: ["exl2", "exl3"],
    matches: (parts) => parts.has("q_weight") || parts.has("trellis"),
    mend: original,
  },
  { name: "FP-Quant", methods: ["fp_quant"], matches: every("qweight", "forward_hadamard_matrix"), mend: original },
  { name: "HIGGS", methods: ["higgs"], matches: every("weight", "tables", "tables2"), mend: saveDequantised },
  { name: "HQQ", methods: ["hqq"], matches: some("W_q"), mend: saveDequantised },
  {
    name: "GPTQ for Marlin kernels",
    methods: ["marlin"],
    matches: every("B", "s"),
    mend: "export it again with GPTQModel in the format gptq",
  },
  {
    name: "MXFP4",
    methods: ["mxfp4"],
    matches: (parts) =>
      [...parts.keys()].some((name) => name.endsWith("_blocks") && parts.has(name.replace("_blocks", "_scales"))),
    mend: saveDequantised,
  },
  { name: "Optimum Quanto", methods: ["quanto"], matches: some("weight._data"), mend: saveDequantised },
  { name: "QuIP#", methods: ["quip"], matches: some("Qidxs"), mend: original },
  { name: "Quark", methods: ["quark"], matches: never, mend: original },
  {
    name: "Scion's own planes",
    methods: ["scion"],
    matches: never,
    mend: `copy ${packedFileName} into the folder too`,
  },
  { name: "SINQ", methods: ["sinq"], matches: never, mend: original },
  {
    name: "sparse compressed-tensors",
    methods: [],
    matches: (parts) => [...parts.keys()].some((name) => /(^|\.)(bitmask|row_offsets)$/.test(name)),
    mend: "load it with transformers and run_compressed=False, and save it with model.save_pretrained(folder)",
  },
  { name: "SpQR", methods: ["spqr"], matches: some("dense_weights"), mend: original },
  { name: "TorchAO", methods: ["torchao"], matches: never, mend: saveDequantised },
  { name: "VPTQ", methods: ["vptq"], matches: every("centroids.weight", "indices"), mend: original },
  {
    name: "AutoRound",
    methods: ["auto-round", "autoround", "intel/auto-round"],
    matches: never,
    mend: "export it again with AutoRound in the format auto_gptq or auto_awq",
  },
];

function codesOf(name: string, dtype: string, scale: string): (parts: Parts) => boolean {
  return (parts) => parts.get(name)?.dtype === dtype && parts.has(scale);
}
