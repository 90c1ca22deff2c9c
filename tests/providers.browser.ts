import { openWebDevice, type WebDeviceOptions } from "../src/runtime/web.ts";
import { type FamilyRun, familyTraining } from "./helpers/family-training.ts";
import { type TinyRun, tinyTraining } from "./helpers/tiny-training.ts";

/** What the page of `providers.test.ts` can be asked to do. */
export interface TrainingPage {
  train(options: WebDeviceOptions, steps: number, run?: TinyRun): Promise<readonly number[]>;
  /** As `familyTraining` in Node. */
  trainFamily(options: WebDeviceOptions, config: Readonly<Record<string, unknown>>, steps: number): Promise<FamilyRun>;
}

const page: TrainingPage = {
  train: async (options, steps, run) => {
    const device = await openWebDevice(options);
    try {
      return await tinyTraining(device, steps, run);
    } finally {
      await device.close();
    }
  },
  trainFamily: async (options, config, steps) => {
    const device = await openWebDevice(options);
    try {
      return await familyTraining(device, config, steps);
    } finally {
      await device.close();
    }
  },
};

Object.assign(globalThis, { scion: page });
