import { describe, expect, it } from "vitest";
import { activationFunctions } from "../ops/index.ts";
import { adapterHubFields, configOf, settingsOf } from "./adapterhub-config.ts";

// The fields of `BnConfig` in AdapterHub's `adapters` 1.2, with the values that its class gives them.
const ofTheLibrary = {
  mh_adapter: undefined,
  output_adapter: undefined,
  reduction_factor: undefined,
  non_linearity: undefined,
  original_ln_before: false,
  original_ln_after: true,
  ln_before: false,
  ln_after: false,
  init_weights: "bert",
  init_weights_seed: null,
  is_parallel: false,
  scaling: 1,
  use_gating: false,
  residual_before_ln: true,
  adapter_residual_before_ln: false,
  inv_adapter: null,
  inv_adapter_reduction_factor: null,
  cross_adapter: false,
  leave_out: [],
  dropout: 0,
  phm_layer: false,
  phm_dim: 4,
  factorized_phm_W: true,
  shared_W_phm: false,
  shared_phm_rule: true,
  factorized_phm_rule: false,
  phm_c_init: "normal",
  phm_init_range: 0.0001,
  learn_phm: true,
  hypercomplex_nonlinearity: "glorot-uniform",
  phm_rank: 1,
  phm_bias: true,
  stochastic_depth: 0,
};

const activations = Object.keys(activationFunctions);
const asked = { mh_adapter: true, output_adapter: true, reduction_factor: 16, non_linearity: "relu" };
const read = (config: object, around: object = { version: "adapters.1.2.0" }): ReturnType<typeof settingsOf> =>
  settingsOf({ ...around, config: { ...asked, ...config } }, "here", activations);

describe("the ledger of AdapterHub's config", () => {
  it("has every field of the library, with its value, and no other", () => {
    expect(Object.keys(adapterHubFields).sort()).toEqual(Object.keys(ofTheLibrary).sort());
    for (const [key, initial] of Object.entries(ofTheLibrary))
      expect(adapterHubFields[key]?.initial, key).toEqual(initial);
  });

  // A value of each kind that a field may have, other than what the library gives it.
  const others: Readonly<Record<string, unknown>> = {
    original_ln_after: false,
    ln_before: true,
    ln_after: true,
    use_gating: true,
    inv_adapter: "nice",
    stochastic_depth: 0.1,
    residual_before_ln: "post_add",
    adapter_residual_before_ln: true,
    shared_W_phm: true,
    factorized_phm_rule: true,
    phm_bias: false,
  };
  // Beside these, it decides something.
  const acting = { original_ln_before: true, ln_after: true, phm_layer: true };

  it.each(Object.entries(adapterHubFields).filter(([, { ledger }]) => ledger === "fixed"))(
    "%s is refused by name at another value",
    (key) => {
      expect(others).toHaveProperty(key);
      expect(() => read({ ...acting, [key]: others[key] })).toThrow(new RegExp(`${key} = .* is not supported here`));
    },
  );

  it.each(Object.entries(adapterHubFields).filter(([, { ledger }]) => ledger === "used"))(
    "%s decides a setting, or is refused by name",
    (key) => {
      const base = { ...asked, phm_layer: true, reduction_factor: 8 };
      const values: Readonly<Record<string, unknown>> = {
        ...{ cross_adapter: true, dropout: 0.1, factorized_phm_W: false, is_parallel: true, learn_phm: false },
        ...{ leave_out: [1], mh_adapter: false, non_linearity: "tanh", original_ln_before: true },
        ...{
          output_adapter: false,
          phm_dim: 2,
          phm_layer: false,
          phm_rank: 2,
          reduction_factor: { "1": 2, default: 8 },
        },
        ...{ scaling: 4, shared_phm_rule: false },
      };
      expect(values).toHaveProperty(key);
      expect(read({ ...base, [key]: values[key] })).not.toEqual(read(base));
      if (key !== "non_linearity") expect(() => read({ ...base, [key]: "learned" })).toThrow(`${key} = "learned"`);
    },
  );

  it("refuses keys that it does not know, methods that are not built and names of activations with weights", () => {
    expect(() => read({ scalling: 2, brand_new: true })).toThrow(
      /2 problems:\n- scalling = 2 is not known here \(nearest: scaling\).\n- brand_new = true is not known here/,
    );
    expect(() => read({}, { config_names: 1 })).toThrow("config_names = 1 is not known here");
    for (const architecture of ["lora", "mtl_lora", "prefix_tuning", "prompt_tuning", "reft", "union"]) {
      expect(() => settingsOf({ config: { architecture, r: 8 } }, "here", activations)).toThrow(
        `architecture = "${architecture}": of AdapterHub's methods, bottleneck adapters alone are built.`,
      );
    }
    for (const non_linearity of ["prelu", "xielu", "gelu_tan"]) {
      expect(() => read({ non_linearity })).toThrow(`non_linearity = "${non_linearity}" is not supported here`);
    }
    expect(() => read({ mh_adapter: false, output_adapter: false, cross_adapter: true })).toThrow(
      "neither attention nor",
    );
    expect(read({ non_linearity: "LeakyReLU" }).activation).toBe("leaky_relu");
    expect(read({ non_linearity: "gelu" }, {}).activation).toBe("gelu_new");
  });

  it("writes floats as Python does, what decides nothing as it was, and reads itself", () => {
    const settings = read({
      phm_layer: true,
      shared_phm_rule: false,
      reduction_factor: 0.5,
      scaling: 4,
      leave_out: [2],
    });
    const config = configOf(settings, { init_weights: "mam_adapter", ln_after: true });
    expect(config).toMatchObject({ init_weights: "mam_adapter", ln_after: false, scaling: { text: "4.0" } });
    expect(config["dropout"]).toMatchObject({ text: "0.0" });
    expect(
      settingsOf({ version: "adapters.1.2.0", config: JSON.parse(JSON.stringify(config)) }, "here", activations),
    ).toEqual(settings);
  });
});
