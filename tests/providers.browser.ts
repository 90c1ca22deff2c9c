import { openWebDevice, type WebDeviceOptions } from "../src/runtime/web.ts";
import { tinyTraining } from "./helpers/tiny-training.ts";

/** What the page of `providers.test.ts` can be asked to do. */
export interface TrainingPage {
  train(
    options: WebDeviceOptions,
    steps: number,
    config?: Readonly<Record<string, unknown>>,
  ): Promise<readonly number[]>;
}

const page: TrainingPage = {
  train: async (options, steps, config) => {
    const device = await openWebDevice(options);
    try {
      return await tinyTraining(device, steps, config);
    } finally {
      await device.close();
    }
  },
};

Object.assign(globalThis, { scion: page });
