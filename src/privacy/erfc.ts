/*
 * The complementary error function to the last digits of float64, also where it is too small for a float: rational
 * approximations of W. J. Cody 1969, "Rational Chebyshev approximations for the error function", as in his CALERF.
 */

const small = {
  top: [3.1611237438705655, 113.86415415105016, 377.485237685302, 3209.3775891384694, 0.18577770618460315],
  bottom: [23.601290952344122, 244.02463793444417, 1282.6165260773723, 2844.236833439171],
};
const middle = {
  top: [
    0.5641884969886701, 8.883149794388377, 66.11919063714163, 298.6351381974001, 881.952221241769, 1712.0476126340707,
    2051.0783778260716, 1230.3393547979972, 2.1531153547440383e-8,
  ],
  bottom: [
    15.744926110709835, 117.6939508913125, 537.1811018620099, 1621.3895745666903, 3290.7992357334597, 4362.619090143247,
    3439.3676741437216, 1230.3393548037495,
  ],
};
const far = {
  top: [
    0.30532663496123236, 0.36034489994980445, 0.12578172611122926, 0.016083785148742275, 0.0006587491615298378,
    0.016315387137302097,
  ],
  bottom: [2.568520192289822, 1.8729528499234673, 0.5279051029514285, 0.06051834131244132, 0.0023352049762686918],
};

/** A ratio of polynomials in CALERF's order: the last coefficient above leads, below the leading one is 1. */
function ratio(
  x: number,
  { top, bottom }: { readonly top: readonly number[]; readonly bottom: readonly number[] },
): number {
  const last = bottom.length - 1;
  let above = (top[bottom.length] ?? 0) * x;
  let below = x;
  for (let i = 0; i < last; i++) {
    above = (above + (top[i] ?? 0)) * x;
    below = (below + (bottom[i] ?? 0)) * x;
  }
  return (above + (top[last] ?? 0)) / (below + (bottom[last] ?? 0));
}

/** exp(x²)·erfc(x) for x ≥ 0.46875, which does not vanish as erfc does. */
function scaledErfc(x: number): number {
  if (x <= 4) return ratio(x, middle);
  const inverse = 1 / (x * x);
  return (1 / Math.sqrt(Math.PI) - inverse * ratio(inverse, far)) / x;
}

/** erf(x) for |x| < 0.46875. */
function smallErf(x: number): number {
  return x * ratio(x * x, small);
}

/** The complementary error function. */
export function erfc(x: number): number {
  if (x > 27.3) return 0; // below the least float
  if (Math.abs(x) < 0.46875) return 1 - smallErf(x);
  return x > 0 ? Math.exp(-x * x) * scaledErfc(x) : 2 - Math.exp(-x * x) * scaledErfc(-x);
}

/** ln erfc(x), finite for every finite x. */
export function logErfc(x: number): number {
  if (Math.abs(x) < 0.46875) return Math.log1p(-smallErf(x));
  return x > 0 ? Math.log(scaledErfc(x)) - x * x : Math.log(2 - Math.exp(-x * x) * scaledErfc(-x));
}
