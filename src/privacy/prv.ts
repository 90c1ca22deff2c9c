import { assert, TuneError } from "../errors.ts";
import { createFft } from "../linalg/index.ts";
import { erfc } from "./erfc.ts";
import { rdpEpsilon } from "./rdp.ts";
import { checkSpends, composed, type Spend } from "./spend.ts";

/** What steps cost in all: the true epsilon is at most `epsilon`, at least `lower`, and most likely `estimate`. */
export interface PrvEpsilon {
  readonly epsilon: number;
  readonly lower: number;
  readonly estimate: number;
}

const epsilonError = 0.01;
const largestSize = 2 ** 21;

/**
 * What steps of DP-SGD cost in all, by the distribution of the privacy loss: Gopi, Lee and Wutschitz 2021 (arXiv 2106.02848),
 * algorithm 1 with the errors that Opacus allows, 0.01 in epsilon and a thousandth of delta; the error in epsilon is larger where
 * a mesh of two million points is too coarse for that. The worse of adding and removing an example counts.
 * @throws {TuneError} `bad-option` for numbers that are no mechanism; `delta-too-small` for a delta that float64 cannot resolve.
 */
export function prvEpsilon(spends: readonly Spend[], delta: number): PrvEpsilon {
  checkSpends(spends, delta);
  const mechanisms = composed(spends);
  if (mechanisms.length === 0) return { epsilon: 0, lower: 0, estimate: 0 };
  if (mechanisms.some((spend) => spend.noiseMultiplier === 0)) {
    return { epsilon: Infinity, lower: Infinity, estimate: Infinity };
  }
  const steps = mechanisms.reduce((sum, spend) => sum + spend.steps, 0);
  const deltaError = delta / 1000;
  if (steps * 2 ** -50 > deltaError) throw deltaTooSmall(delta, steps); // powers of transforms are rounded so much

  // The mesh and how far it reaches: theorem 5.5 and remark 5.6.
  const perMesh = Math.sqrt((steps / 2) * Math.log(12 / deltaError)); // error in epsilon over width
  const reach =
    3 +
    Math.max(
      rdpEpsilon(mechanisms, deltaError / 4).epsilon,
      ...mechanisms.map((spend) => rdpEpsilon([{ ...spend, steps: 1 }], deltaError / (8 * steps)).epsilon),
    );
  const size = Math.min(2 ** Math.ceil(Math.log2((2 * reach * perMesh) / epsilonError)), largestSize);
  const width = Math.max(epsilonError / perMesh, (2 * reach) / size);

  const losses = compose(mechanisms, size, width);
  const worst = (target: number): number => Math.max(...losses.map((loss) => epsilonOf(loss, width, target)));
  return {
    epsilon: worst(delta - deltaError) + width * perMesh,
    lower: Math.max(0, worst(delta + deltaError) - width * perMesh),
    estimate: worst(delta),
  };
}

function deltaTooSmall(delta: number, steps: number): TuneError {
  return new TuneError("delta-too-small", `Rounding hides what ${steps} steps cost at delta ${delta}.`, {
    fix: "ask for a larger delta, or use the accountant rdp",
  });
}

/** Probabilities of a privacy loss on a mesh: that of k·width + shift stands at k, modulo the size, for −size/2 ≤ k < size/2. */
interface Loss {
  readonly probabilities: Float64Array;
  readonly shift: number;
}

/** The losses of all steps together, of removing and of adding an example: convolutions, by one transform for both. */
function compose(mechanisms: readonly Spend[], size: number, width: number): readonly Loss[] {
  const fft = createFft(size);
  const [real, imaginary] = [new Float64Array(size), new Float64Array(size)];
  const [removed, added, base] = [halfSpectrum(size), halfSpectrum(size), halfSpectrum(size)];
  removed.real.fill(1);
  added.real.fill(1);
  const shifts = { removed: 0, added: 0 };
  for (const spend of mechanisms) {
    shifts.removed += spend.steps * discretise(removal(spend), real, width);
    shifts.added += spend.steps * discretise(addition(spend), imaginary, width);
    fft.forward(real, imaginary); // of removed + i·added, whose symmetric parts are their transforms
    for (const [total, take] of [
      [removed, takeFirst],
      [added, takeSecond],
    ] as const) {
      take(real, imaginary, base);
      for (let power = spend.steps; power > 0; power = Math.floor(power / 2)) {
        if (power % 2 === 1) multiply(total, base);
        if (power > 1) multiply(base, base);
      }
    }
  }
  pack(removed, added, real, imaginary);
  fft.inverse(real, imaginary);
  return [
    { probabilities: real, shift: shifts.removed },
    { probabilities: imaginary, shift: shifts.added },
  ];
}

/** A transform of real numbers: the other half is its mirror image. */
interface HalfSpectrum {
  readonly real: Float64Array;
  readonly imaginary: Float64Array;
}

function halfSpectrum(size: number): HalfSpectrum {
  return { real: new Float64Array(size / 2 + 1), imaginary: new Float64Array(size / 2 + 1) };
}

/** The transform of a from that, Z, of a + ib with real a and b: (Z[k] + conj Z[−k]) / 2. */
function takeFirst(real: Float64Array, imaginary: Float64Array, into: HalfSpectrum): void {
  for (let k = 0, m = 0; k < into.real.length; k++, m = real.length - k) {
    into.real[k] = ((real[k] as number) + (real[m] as number)) / 2;
    into.imaginary[k] = ((imaginary[k] as number) - (imaginary[m] as number)) / 2;
  }
}

/** The transform of b from that, Z, of a + ib with real a and b: (Z[k] − conj Z[−k]) / 2i. */
function takeSecond(real: Float64Array, imaginary: Float64Array, into: HalfSpectrum): void {
  for (let k = 0, m = 0; k < into.real.length; k++, m = real.length - k) {
    into.real[k] = ((imaginary[k] as number) + (imaginary[m] as number)) / 2;
    into.imaginary[k] = ((real[m] as number) - (real[k] as number)) / 2;
  }
}

/** The transform of a + ib from those of a and b. */
function pack(first: HalfSpectrum, second: HalfSpectrum, real: Float64Array, imaginary: Float64Array): void {
  for (let k = 0, m = 0; k < first.real.length; k++, m = real.length - k) {
    const [a, b] = [first.real[k] as number, first.imaginary[k] as number];
    const [c, d] = [second.real[k] as number, second.imaginary[k] as number];
    real[k] = a - d;
    imaginary[k] = b + c;
    real[m] = a + d;
    imaginary[m] = c - b;
  }
}

/** Multiply a transform by another, number by number. */
function multiply(into: HalfSpectrum, other: HalfSpectrum): void {
  for (let k = 0; k < into.real.length; k++) {
    const [a, b] = [into.real[k] as number, into.imaginary[k] as number];
    const [c, d] = [other.real[k] as number, other.imaginary[k] as number];
    into.real[k] = a * c - b * d;
    into.imaginary[k] = a * d + b * c;
  }
}

/** A privacy loss of one step: P(loss ≤ t) and P(loss > t), each to its own digits, and its mean. */
interface StepLoss {
  below(t: number): number;
  above(t: number): number;
  readonly mean: number;
}

/*
 * One step shows x from P = N(0, σ²) without the example, and from Q = (1−q)·P + q·N(1, σ²) with it. Everything is in terms of
 * ln Q(x)/P(x) = ln(1 − q + q·exp((2x − 1)/2σ²)), which grows with x.
 */
function logRatio({ samplingRate: q, noiseMultiplier: sigma }: Spend, x: number): number {
  const exponent = (2 * x - 1) / (2 * sigma * sigma);
  return exponent > 1 ? exponent + Math.log(q + (1 - q) * Math.exp(-exponent)) : Math.log1p(q * Math.expm1(exponent));
}

/** The x at which ln Q/P is t; −∞ where it is always above. */
function ratioAt({ samplingRate: q, noiseMultiplier: sigma }: Spend, t: number): number {
  const power =
    t > 1 ? t - Math.log(q) + Math.log1p((q - 1) * Math.exp(-t)) : Math.log1p(Math.max(-1, Math.expm1(t) / q));
  return sigma * sigma * power + 0.5;
}

/** P(N(0, 1) > z). */
const upperTail = (z: number): number => erfc(z / Math.SQRT2) / 2;

/** The loss of removing an example: ln Q/P under Q. */
function removal(spend: Spend): StepLoss {
  const { samplingRate: q, noiseMultiplier: sigma } = spend;
  const tail = (x: number, sign: 1 | -1): number =>
    (1 - q) * upperTail((sign * x) / sigma) + q * upperTail((sign * (x - 1)) / sigma);
  return {
    below: (t) => tail(ratioAt(spend, t), -1),
    above: (t) => tail(ratioAt(spend, t), 1),
    mean: normalMean(sigma, (x) => (1 - q) * logRatio(spend, x) + q * logRatio(spend, x + 1)),
  };
}

/** The loss of adding an example: ln P/Q under P. */
function addition(spend: Spend): StepLoss {
  const { noiseMultiplier: sigma } = spend;
  return {
    below: (t) => upperTail(ratioAt(spend, -t) / sigma),
    above: (t) => upperTail(-ratioAt(spend, -t) / sigma),
    mean: normalMean(sigma, (x) => -logRatio(spend, x)),
  };
}

/** The mean of f(x) for x from N(0, σ²): the trapezoidal rule, which is exact to rounding for functions as smooth as these. */
function normalMean(sigma: number, f: (x: number) => number): number {
  const step = Math.min(1 / 16, Math.max(1e-4, sigma / 8));
  let sum = 0;
  for (let i = Math.ceil(-10 / step); i * step <= 10; i++)
    sum += Math.exp(-((i * step) ** 2) / 2) * f(sigma * i * step);
  return (sum * step) / Math.sqrt(2 * Math.PI);
}

/** Put a loss on the mesh, each point with what is nearest to it. @returns the shift that makes its mean the true one. */
function discretise(loss: StepLoss, into: Float64Array, width: number): number {
  const half = into.length / 2;
  const middle = Math.max(-half, Math.min(half, Math.round(loss.mean / width)));
  let mean = 0;
  const put = (k: number, probability: number): void => {
    into[k < 0 ? k + into.length : k] = probability;
    mean += probability * k * width;
  };
  // Each side by its own tail, which has more digits there.
  let below = loss.below((-half - 0.5) * width);
  for (let k = -half; k < middle; k++) {
    const next = loss.below((k + 0.5) * width);
    put(k, next - below);
    below = next;
  }
  let above = 1 - below;
  for (let k = middle; k < half; k++) {
    const next = loss.above((k + 0.5) * width);
    put(k, above - next);
    above = next;
  }
  const shift = loss.mean - mean;
  assert(Math.abs(shift) <= width, `the mean of a privacy loss is ${loss.mean}, and ${mean} on a mesh of ${width}`);
  return shift;
}

/** The least epsilon, at least 0, whose delta is at most the target: δ(ε) = E[(1 − exp(ε − loss))⁺], summed from above. */
function epsilonOf({ probabilities, shift }: Loss, width: number, target: number): number {
  const half = probabilities.length / 2;
  const decay = Math.exp(-width);
  let [mass, discounted] = [0, 0]; // Σ p and Σ p·exp(t − t′) over the losses t′ ≥ t
  for (let k = half - 1; k >= -half; k--) {
    const t = k * width + shift;
    const p = probabilities[k < 0 ? k + probabilities.length : k] as number;
    const [nextMass, nextDiscounted] = [mass + p, decay * discounted + p];
    if (nextMass - nextDiscounted > target) return Math.max(0, t + width + Math.log((mass - target) / discounted));
    if (t < 0) return 0;
    [mass, discounted] = [nextMass, nextDiscounted];
  }
  return 0;
}
