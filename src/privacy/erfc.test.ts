import { expect, it } from "vitest";
import { erfc, logErfc } from "./erfc.ts";

it("erfc and its logarithm are scipy's to fourteen digits, far out too", () => {
  const scipy = [
    [-7, 2.0, Math.LN2],
    [-2, 1.9953222650189528, 0.6908055736465877],
    [-0.4, 1.4283923550466684, 0.3565495846142485],
    [0.3, 0.6713732405408726, -0.39843005144008525],
    [0.46, 0.5153446099983203, -0.6629194564687089],
    [0.48, 0.4972503293052351, -0.6986616989954137],
    [1, 0.15729920705028513, -1.8496055099332482],
    [2.5, 0.0004069520174449589, -7.806815272727264],
    [3.9, 3.4792248597231765e-8, -17.1738712164354],
    [4.1, 6.700027654084918e-9, -18.821154183082648],
    [6, 2.1519736712498913e-17, -38.37756117322339],
    [10, 2.088487583762545e-45, -102.87988902484489],
    [26, 5.663192408856143e-296, -679.8311997631943],
    [300, 0.0, -90006.27615297306],
  ] as const;
  for (const [x, value, logarithm] of scipy) {
    expect(Math.abs(erfc(x) - value)).toBeLessThanOrEqual(4e-14 * Math.abs(value)); // exp(−x²) carries x²·2⁻⁵³
    expect(Math.abs(logErfc(x) - logarithm)).toBeLessThanOrEqual(1e-14 * Math.max(1e-3, Math.abs(logarithm)));
  }
});
