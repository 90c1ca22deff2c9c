import type { Rng } from "../../src/linalg/rng.ts";
import { capitalise, chance, type Filled, fill, pick } from "./grammar.ts";
import { slots } from "./slots.ts";

/**
 * A function that requests can call: its arguments in the order they are written (argument -> slot), and the ways to
 * ask for it. `unseen` ways appear in the held-out data alone.
 */
export interface Callable {
  readonly name: string;
  readonly arguments: Readonly<Record<string, string>>;
  readonly ways: readonly string[];
  readonly unseen: readonly string[];
}

/** A request in plain English and the call that answers it, as compact JSON. */
export interface Request {
  readonly text: string;
  readonly call: string;
}

/** The functions of the task. */
export const callables: readonly Callable[] = [
  {
    name: "set_timer",
    arguments: { minutes: "duration" },
    ways: [
      "[set|start|make] a timer for {duration}",
      "[set|start] a timer that [runs for|lasts] {duration}",
      "timer for {duration}",
      "count down {duration}",
      "let me know when {duration} [are up|have passed]",
      "[start|begin] a countdown of {duration}",
      "I need a timer for {duration}",
      "put {duration} on the timer",
    ],
    unseen: ["put a timer on for {duration}", "start counting down {duration}"],
  },
  {
    name: "set_alarm",
    arguments: { time: "time", day: "day" },
    ways: [
      "[set|make] an alarm for {time}",
      "[set|make] an alarm for {time} {day}",
      "wake me [up |]at {time}",
      "wake me [up |]at {time} {day}",
      "wake me [up |]{day} at {time}",
      "alarm at {time}",
      "I have to [get up|wake up] at {time}",
      "set the alarm clock to {time}",
      "get me out of bed at {time} {day}",
      "the alarm must go off at {time}",
    ],
    unseen: ["get me up at {time} {day}", "the alarm should ring at {time}"],
  },
  {
    name: "turn_on_light",
    arguments: { room: "room" },
    ways: [
      "turn on the [light|lights|lamp] in the {room}",
      "turn the {room} [light|lights|lamp] on",
      "switch on the {room} [light|lights|lamp]",
      "[light|lights] on in the {room}",
      "I need [some |]light in the {room}",
      "it is too dark in the {room}",
      "make the {room} bright",
      "switch the {room} [light|lights|lamp] on",
    ],
    unseen: ["switch the [light|lights] in the {room} on", "it is dark in the {room}, turn on the light"],
  },
  {
    name: "turn_off_light",
    arguments: { room: "room" },
    ways: [
      "turn off the [light|lights|lamp] in the {room}",
      "turn the {room} [light|lights|lamp] off",
      "switch off the {room} [light|lights|lamp]",
      "[light|lights] off in the {room}",
      "nobody needs light in the {room}",
      "it is too bright in the {room}",
      "make the {room} dark",
      "switch the {room} [light|lights|lamp] off",
    ],
    unseen: ["switch the [light|lights] in the {room} off", "it is bright in the {room}, turn off the light"],
  },
  {
    name: "play_music",
    arguments: { artist: "artist", genre: "genre", room: "room" },
    ways: [
      "play [some |]{genre}",
      "play [some |]{genre} in the {room}",
      "play [something by |songs by |music by |]{artist}",
      "play {artist} in the {room}",
      "put on [some |]{genre} [music |]in the {room}",
      "put on [the new album by |]{artist}",
      "I want to [hear|listen to] {artist}",
      "I want to [hear|listen to] [some |]{genre}",
      "I feel like [some |]{genre} music",
      "let me [hear|listen to] {artist}",
      "let me listen to [some |]{genre} in the {room}",
      "let us hear [some |]{genre}",
    ],
    unseen: ["let me hear [some |]{genre} in the {room}", "I feel like listening to {artist}"],
  },
  {
    name: "send_message",
    arguments: { to: "person", text: "statement" },
    ways: [
      "tell {person} that {statement}",
      "tell {person} {statement}",
      "[send|write] {person} a message that {statement}",
      "[send|write] a message to {person}: {statement}",
      "text {person} that {statement}",
      "text {person}: {statement}",
      "let {person} know that {statement}",
      "message {person} that {statement}",
      "let {person} know: {statement}",
    ],
    unseen: ["send {person} a text that {statement}", "let {person} know {statement}"],
  },
  {
    name: "get_weather",
    arguments: { city: "city", day: "day" },
    ways: [
      "what is the weather [like |]in {city}",
      "what is the weather [like |]in {city} {day}",
      "how is the weather in {city}",
      "how will the weather be in {city} {day}",
      "will it [rain|snow|be sunny|be cold] in {city}",
      "will it [rain|snow|be sunny|be cold] in {city} {day}",
      "weather in {city}",
      "the forecast for {city} {day}",
      "is it [cold|sunny|raining] in {city}",
      "show me the forecast for {city}",
      "do I need an umbrella in {city} {day}",
    ],
    unseen: ["show me the weather for {city} {day}", "is it going to rain in {city}"],
  },
  {
    name: "book_table",
    arguments: { place: "restaurant", people: "count", time: "time" },
    ways: [
      "book a table for {count} at {restaurant} at {time}",
      "book a table at {restaurant} for {count} people at {time}",
      "reserve a table at {restaurant} at {time} for {count}",
      "get us a table at {restaurant}, {count} people, {time}",
      "we are {count} people and want to eat at {restaurant} at {time}",
      "I want a table for {count} at {time} at {restaurant}",
      "dinner at {restaurant} for {count} at {time}",
    ],
    unseen: [
      "reserve a table for {count} people at {restaurant} at {time}",
      "a table at {restaurant} at {time} for {count} people",
    ],
  },
  {
    name: "add_reminder",
    arguments: { text: "chore", day: "day", time: "time" },
    ways: [
      "remind me to {chore}",
      "remind me to {chore} {day}",
      "remind me to {chore} at {time}",
      "remind me {day} to {chore}",
      "remind me at {time} to {chore}",
      "[add|set] a reminder to {chore}",
      "[add|set] a reminder {day}: {chore}",
      "do not let me forget to {chore} {day}",
      "I must not forget to {chore} at {time}",
      "a reminder for {time}: {chore}",
      "do not let me forget to {chore}",
    ],
    unseen: ["do not let me forget to {chore} at {time}", "set a reminder for {time}: {chore}"],
  },
  {
    name: "convert_currency",
    arguments: { amount: "amount", from: "currency", to: "currency2" },
    ways: [
      "convert {amount} {currency} to {currency2}",
      "convert {amount} {currency} into {currency2}",
      "how much is {amount} {currency} in {currency2}",
      "how many {currency2} are {amount} {currency}",
      "how many {currency2} do I get for {amount} {currency}",
      "what is {amount} {currency} in {currency2}",
      "change {amount} {currency} to {currency2}",
      "{amount} {currency} in {currency2}",
      "how many {currency2} can I get with {amount} {currency}",
    ],
    unseen: ["turn {amount} {currency} into {currency2}", "how many {currency2} can I buy with {amount} {currency}"],
  },
  {
    name: "set_thermostat",
    arguments: { room: "room", degrees: "degrees" },
    ways: [
      "set the {room} to {degrees} degrees",
      "set the [thermostat|heating|temperature] in the {room} to {degrees}[ degrees|]",
      "set the {room} [thermostat|heating|temperature] to {degrees}[ degrees|]",
      "[heat|warm] the {room} to {degrees} degrees",
      "I want {degrees} degrees in the {room}",
      "make it {degrees} degrees in the {room}",
      "turn the heating in the {room} to {degrees}",
      "the {room} must be at {degrees} degrees",
      "it should be {degrees} degrees in the {room}",
      "[heat|warm] up the {room} to {degrees} degrees",
    ],
    unseen: ["the {room} should be at {degrees} degrees", "get the {room} to {degrees} degrees"],
  },
  {
    name: "translate_text",
    arguments: { text: "phrase", language: "language" },
    ways: [
      'translate "{phrase}" to {language}',
      'translate "{phrase}" into {language}',
      'how do you say "{phrase}" in {language}',
      'say "{phrase}" in {language}',
      'what is "{phrase}" in {language}',
      'what is the {language} for "{phrase}"',
      'I want to say "{phrase}" in {language}',
      'put "{phrase}" into {language}',
    ],
    unseen: ['how would I say "{phrase}" in {language}', 'give me the {language} for "{phrase}"'],
  },
];

const openings: readonly string[] = ["hey, ", "hello, ", "ok, "];
const closings: readonly string[] = [" please", ", please", ", thanks", " now"];
const question = /^(what|how|will|do I|is)\b/;
const plain = /^(what|how|will|do I|is|we|I|it|the|nobody|\{)/; // "please" does not go before these
const spokenToTheEnd = /\{(statement|chore)\}$/;

/** A request for the function, said in one of the given ways. */
export function makeRequest(rng: Rng, callable: Callable, ways: readonly string[]): Request {
  const way = pick(rng, ways);
  const filled = fill(rng, way, slots);
  let text = filled.text;
  if (chance(rng, 0.3)) text = (plain.test(way) || chance(rng, 0.5) ? pick(rng, openings) : "please ") + text;
  if (!spokenToTheEnd.test(way)) {
    if (chance(rng, 0.25)) text += pick(rng, closings);
    else if (chance(rng, 0.3)) text += question.test(way) ? "?" : ".";
  }
  return { text: chance(rng, 0.6) ? capitalise(text) : text, call: callOf(callable, filled) };
}

function callOf(callable: Callable, { values }: Filled): string {
  const given = Object.entries(callable.arguments).filter(([, slot]) => values[slot] !== undefined);
  return JSON.stringify({
    name: callable.name,
    arguments: Object.fromEntries(given.map(([argument, slot]) => [argument, values[slot]])),
  });
}
