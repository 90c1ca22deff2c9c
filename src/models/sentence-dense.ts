import { TuneError } from "../errors.ts";
import type { Tensor } from "../graph/index.ts";
import { toFloat32 } from "../io/convert.ts";
import { readJsonObject } from "../io/json.ts";
import { openModelWeights } from "../io/model-weights.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import type { Activation } from "./activations.ts";
import { unsupportedModule } from "./sentence-refusal.ts";

/** A Dense module behind the pooling: activation(weight · embedding + bias). Tuning leaves it as it is. */
export interface DenseModule {
  readonly kind: "dense";
  /** float32 [out, in] */
  readonly weight: Tensor;
  /** float32 [out] */
  readonly bias: Tensor | undefined;
  readonly activation: Activation;
}

/** PyTorch's modules by the last part of their names, with their default arguments, as sentence-transformers makes them. */
const activationModules: Readonly<Record<string, Activation>> = {
  Identity: "linear",
  Tanh: "tanh",
  ReLU: "relu",
  GELU: "gelu",
  SiLU: "silu",
  Sigmoid: "sigmoid",
};

/** Keys of a Dense module's configuration. */
const keys: readonly string[] = [
  ...["in_features", "out_features", "bias", "activation_function"],
  ...["module_input_name", "module_output_name"],
];

/**
 * Read a Dense module: `config.json` and `model.safetensors` of its folder.
 * @throws {TuneError} `unsupported-module` for activation functions, inputs and keys that are not built;
 *   `weights-mismatch` for tensors that are not those of its configuration; what reading the files throws.
 */
export async function readDense(storage: Storage, folder: string): Promise<DenseModule> {
  const at = joinPath(folder, "config.json");
  const json = await readJsonObject(storage, at);
  const { in_features: into, out_features: out, bias: hasBias = true, activation_function: named } = json;
  const sentence = "sentence_embedding";
  const { module_input_name: from = sentence, module_output_name: to = from } = json;
  const strange = Object.keys(json).filter((key) => !keys.includes(key));
  if (strange.length > 0) throw unsupportedModule(at, `a Dense module with ${strange.join(", ")}`);
  if (from !== sentence || (to !== sentence && to !== null))
    throw unsupportedModule(at, `a Dense module from ${JSON.stringify(from)} to ${JSON.stringify(to)}`);
  // The constructor's default is Tanh, and null is the identity.
  const name = named === undefined ? "Tanh" : named === null ? "Identity" : String(named);
  const activation = /^(torch\.nn(\.modules(\.\w+)?)?\.)?\w+$/.test(name)
    ? activationModules[name.split(".").at(-1) ?? ""]
    : undefined;
  if (activation === undefined) throw unsupportedModule(at, `a Dense module with the activation ${name}`);

  const files = await openModelWeights(storage, folder);
  const wanted = new Map([
    ["linear.weight", [out, into]],
    ...(hasBias === true ? [["linear.bias", [out]] as const] : []),
  ]);
  const problems = [
    ...[...wanted].flatMap(([tensor, shape]) => {
      const found = files.get(tensor);
      if (found === undefined) return [`${tensor} is missing`];
      return found.shape.join() === shape.join()
        ? []
        : [`${tensor} is [${found.shape.join(", ")}], but config.json says [${shape.join(", ")}]`];
    }),
    ...[...files.keys()]
      .filter((tensor) => !wanted.has(tensor))
      .map((tensor) => `${tensor} is not one of a Dense module`),
  ];
  if (problems.length > 0) {
    throw new TuneError("weights-mismatch", `The Dense module's weights do not fit it:\n  ${problems.join("\n  ")}`, {
      at: folder,
      fix: "fetch the folder again",
    });
  }
  const read = async (tensor: string): Promise<Tensor | undefined> => {
    const found = files.get(tensor);
    return found && toFloat32(found);
  };
  return {
    kind: "dense",
    weight: (await read("linear.weight")) as Tensor, // found above
    bias: await read("linear.bias"),
    activation,
  };
}
