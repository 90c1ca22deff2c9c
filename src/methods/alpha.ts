import { TuneError } from "../errors.ts";
import { constant, type ScaledCodes, type Value, weight } from "../graph/index.ts";
import { cast, gather, linear, mul, reduceSum } from "../ops/index.ts";
import { defineMethod, type Method, type Parameters, type Site } from "./method.ts";

/**
 * The scales of packed weights, and nothing else: codes stay as they are and may be shared by many tasks. Kwon et al.
 * 2022 (arXiv 2210.03858), §3.2, with every scale trained instead of the first of each row. Scales start as they are
 * stored.
 */
export const alpha: Method<Record<never, never>> = defineMethod<Record<never, never>>({
  name: "alpha",
  summary: "The scales of a packed model, its codes unchanged (AlphaTuning)",
  cite: {
    title: "AlphaTuning: Quantization-Aware Parameter-Efficient Adaptation of Large-Scale Pre-Trained Language Models",
    authors:
      "Se Jung Kwon and Jeonghoon Kim and Jeongin Bae and Kang Min Yoo and Jin-Hwa Kim and Baeseong Park and Byeongwook Kim and Jung-Woo Ha and Nako Sung and Dongsoo Lee",
    year: 2022,
    arxiv: "2210.03858",
    at: "§3.2",
  },
  fields: {},
  attaches: "linear",
  rates: [3e-5, 1e-4, 3e-4, 1e-3],
  parameters: (site) => {
    const { scales } = scaledOf(site);
    const fromWeight = async (): Promise<Float32Array> => Float32Array.from((await scales.read()).data as Float32Array); // its dtype
    return { scales: { shape: scales.shape, initial: { fromWeight }, decays: false } };
  },
  adapt: ({ site, x, bias }, parameter) => linear(x, scaledWeight(site, parameter), bias),
  merge: (_weight, parameter, _config, site) => scaledWeight(site, parameter),
  form: "scales",
});

function scaledOf({ module, weight: value }: Pick<Site, "module" | "weight">): ScaledCodes {
  const scaled = value.kind === "weight" ? value.source.scaled : undefined;
  if (scaled) return scaled;
  throw new TuneError("not-packed", `The weight of ${module} is not packed, so it has no scales to tune.`, {
    at: module,
    fix: "tune a folder that `scion quantize` wrote, and target its packed layers alone (all-linear)",
  });
}

/** Σ_p scales[p]·codes[p], [out, in]. */
function scaledWeight(site: Pick<Site, "module" | "weight">, parameter: Parameters): Value {
  const { codes, rowGroup } = scaledOf(site);
  const [, rows = 0] = codes.shape;
  let scales = parameter("scales");
  if (rowGroup > 1 && rowGroup < rows) {
    const rowGroups = Array.from({ length: rows }, (_, row) => Math.floor(row / rowGroup));
    scales = gather(scales, constant(rowGroups, "int64"), 1);
  }
  const { groups } = leavesOf(site);
  if (groups) scales = gather(scales, groups, 2);
  return reduceSum(mul(cast(leavesOf(site).codes, "float32"), scales), [0], { keep: false });
}

/** A module may act in several places; its codes are one leaf. */
function leavesOf(site: Pick<Site, "module" | "weight">): {
  readonly codes: Value;
  readonly groups: Value | undefined;
} {
  const scaled = scaledOf(site);
  const known = leaves.get(scaled);
  if (known) return known;
  const made = {
    codes: weight(`${site.module}.codes`, scaled.codes),
    groups: scaled.columnGroups && weight(`${site.module}.column_groups`, scaled.columnGroups),
  };
  leaves.set(scaled, made);
  return made;
}

const leaves = new WeakMap<ScaledCodes, { readonly codes: Value; readonly groups: Value | undefined }>();
