import { checkLaw, deviceLaws } from "./device.conformance.ts";
import { openWebDevice, type WebDeviceOptions, webPlatform } from "./web.ts";

/** What the page of `web.test.ts` can be asked to do. */
export interface WebPage {
  readonly isolated: boolean;
  providers(): Promise<readonly string[]>;
  checkLaw(name: string, options: WebDeviceOptions): Promise<void>;
}

const page: WebPage = {
  isolated: crossOriginIsolated,
  providers: () => webPlatform.providers(),
  checkLaw: async (name, options) => {
    const law = deviceLaws.find((candidate) => candidate.name === name);
    if (law === undefined) throw new Error(`no law "${name}"`);
    await checkLaw(law, () => openWebDevice(options));
  },
};

Object.assign(globalThis, { scion: page });
