import type { Rng } from "../../src/linalg/rng.ts";
import { chance, fill, oneOf, pick, type Slot, type Spoken, same } from "./grammar.ts";
import * as words from "./words.ts";

const small: readonly string[] = [
  ..."zero,one,two,three,four,five,six,seven,eight,nine,ten,eleven,twelve,thirteen,fourteen,fifteen".split(","),
  ..."sixteen,seventeen,eighteen,nineteen".split(","),
];
const tens: readonly string[] = "twenty,thirty,forty,fifty,sixty,seventy,eighty,ninety".split(",");

/** A whole number below 100 in English words: 25 -> "twenty five". @throws {RangeError} outside 0…99. */
export function numberWords(value: number): string {
  const unit = small[value % 10];
  const ten = tens[Math.floor(value / 10) - 2];
  const word = value < 20 ? small[value] : value % 10 === 0 ? ten : `${ten} ${unit}`;
  if (word === undefined || !Number.isInteger(value)) throw new RangeError(`No words for ${value}: it must be 0…99.`);
  return word;
}

/** A number said in digits, or now and then in words. */
export function spokenNumber(rng: Rng, value: number): Spoken {
  return { say: value < 100 && chance(rng, 0.3) ? numberWords(value) : String(value), value };
}

/** A whole number from `low` to `high`, both included. */
export function between(low: number, high: number): Slot {
  return (rng) => spokenNumber(rng, low + rng.integer(high - low + 1));
}

const idioms: readonly Spoken[] = [
  { say: "half an hour", value: 30 },
  { say: "an hour", value: 60 },
  { say: "one hour", value: 60 },
  { say: "an hour and a half", value: 90 },
  { say: "a quarter of an hour", value: 15 },
  { say: "two hours", value: 120 },
  { say: "2 hours", value: 120 },
  { say: "three hours", value: 180 },
  { say: "3 hours", value: 180 },
];

/** A length of time, meaning a number of minutes. */
export const duration: Slot = (rng) => {
  if (chance(rng, 0.3)) return pick(rng, idioms);
  const { say, value } = spokenNumber(rng, 2 + rng.integer(58));
  return { say: `${say} minutes`, value };
};

/** Hours and minutes on the 24-hour clock: (7, 5) -> "07:05". */
export function clock(hour: number, minute: number): string {
  return `${String(hour).padStart(2, "0")}:${String(minute).padStart(2, "0")}`;
}

/** A time of day, meaning `HH:MM` on the 24-hour clock; minutes are multiples of five. */
export const time: Slot = (rng) => {
  const hour = 5 + rng.integer(18);
  const minute = chance(rng, 0.4) ? 0 : 5 * rng.integer(12);
  return { say: sayTime(rng, hour, minute), value: clock(hour, minute) };
};

function sayTime(rng: Rng, hour: number, minute: number): string {
  if (hour === 12 && minute === 0) return pick(rng, ["noon", "12 pm"]);
  const twelve = hour % 12 === 0 ? 12 : hour % 12;
  const half = hour < 12 ? "am" : "pm";
  const part = hour < 12 ? "in the morning" : hour < 18 ? "in the afternoon" : "in the evening";
  const way = rng.integer(10);
  if (way < 2) return clock(hour, minute);
  if (way < 4 && minute === 30) return `half past ${numberWords(twelve)} ${part}`;
  if (way < 4 && minute === 15) return `quarter past ${numberWords(twelve)} ${part}`;
  if (minute === 0) return way < 6 ? `${numberWords(twelve)} ${part}` : `${twelve} ${half}`;
  return `${twelve}:${String(minute).padStart(2, "0")} ${way < 5 ? part : half}`;
}

/** A currency in the plural, meaning its ISO code. */
export const currency: Slot = (rng) => {
  const { many, code } = pick(rng, words.currencies);
  return { say: many, value: code };
};

/** A sum of money without its currency. */
export const amount: Slot = (rng) =>
  spokenNumber(rng, chance(rng, 0.5) ? 2 + rng.integer(98) : 10 * (10 + rng.integer(90)));

/** A day: "on Monday" means `Monday`, "tomorrow" means itself. */
export const day: Slot = (rng) => {
  const value = pick(rng, words.days);
  return { say: /^[A-Z]/.test(value) ? `on ${value}` : value, value };
};

/** A statement of a few words, as one would pass it on. */
export const statement: Slot = (rng) =>
  same(
    fill(
      rng,
      pick(rng, [
        "the [train|bus|flight|taxi] is [late|early|full]",
        "I will be {count} minutes late",
        "the [keys|umbrella|tickets] [are|were] in the {room}",
        "I left the {thing} in the {room}",
        "we meet {person} {day}",
        "{person} [likes|wants|bought] the {thing}",
        "dinner is ready",
        "the meeting is [over|moved to the evening|in the {room}]",
        "I am [on my way|already here|stuck in traffic|still at work|at the airport|in {city}]",
        "the {thing} is [broken|lost|ready|on the table]",
        "we need more {food}",
        "{person} has the {thing}",
        "I miss you",
        "the [doctor|teacher|plumber|driver] [called|is here|can come {day}]",
        "it is {sky} in {city}",
        "I like the {food}",
        "there is no {food} left",
      ]),
      entities,
    ).text,
  );

/** Something to do, in the infinitive. */
export const chore: Slot = (rng) =>
  same(
    fill(
      rng,
      pick(rng, [
        "water the [plants|flowers|garden]",
        "call {person}",
        "call the [doctor|plumber|bank|school|dentist]",
        "buy [some |]{food}",
        "pay the [rent|bill|phone bill|gas bill]",
        "clean the {room}",
        "pick up {person}",
        "pick up the {thing}",
        "feed the [cat|dog|fish|birds]",
        "take out the [trash|bins]",
        "write to {person}",
        "visit {person} in {city}",
        "return the {thing}",
        "charge the [phone|laptop|camera]",
        "fix the {thing}",
        "cook {food} for {person}",
        "talk to {person} about {topic}",
        "wash the [car|windows|dishes|sheets]",
      ]),
      entities,
    ).text,
  );

/** The rules for slots that need no words of their own. */
export const entities: Readonly<Record<string, Slot>> = {
  person: oneOf(words.people),
  city: oneOf(words.cities),
  room: oneOf(words.rooms),
  day,
  language: oneOf(words.languages),
  genre: oneOf(words.genres),
  artist: oneOf(words.artists),
  restaurant: oneOf(words.restaurants),
  food: oneOf(words.foods),
  thing: oneOf(words.things),
  topic: oneOf(words.topics),
  sky: oneOf(words.skies),
  phrase: oneOf(words.phrases),
  count: between(2, 20),
  degrees: between(14, 27),
};

/** Every rule: the entities, and what is said in more than one way. */
export const slots: Readonly<Record<string, Slot>> = {
  ...entities,
  duration,
  time,
  currency,
  amount,
  statement,
  chore,
};
