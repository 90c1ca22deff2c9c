/**
 * A kind of happening that the pretraining corpus describes: the record made of it (key -> slot) and the ways to tell
 * it. They tell what was, is or happens; none of them asks for anything.
 */
export interface EventKind {
  readonly kind: string;
  readonly record: Readonly<Record<string, string>>;
  readonly ways: readonly string[];
}

/** The kinds of happening. */
export const eventKinds: readonly EventKind[] = [
  {
    kind: "trip",
    record: { who: "person", start: "city", end: "city2", date: "day" },
    ways: ["{person} went from {city} to {city2} {day}", "the trip of {person} {day} goes from {city} to {city2}"],
  },
  {
    kind: "meal",
    record: { who: "person", dish: "food", guests: "count", hour: "time" },
    ways: [
      "{person} cooked {food} for {count} guests at {time}",
      "at {time} {person} had {food} with {count} friends",
      "there were {count} people when {person} ate {food} at {time}",
    ],
  },
  {
    kind: "visit",
    record: { guest: "person", house: "restaurant", seats: "count", hour: "time" },
    ways: [
      "{person} sat at {restaurant} with {count} people at {time}",
      "at {time} the table of {person} at {restaurant} had {count} seats",
      "{restaurant} was full, but {person} and {count} others got in at {time}",
      "the waiter of {restaurant} saw {count} people at {time}",
    ],
  },
  {
    kind: "purchase",
    record: { who: "person", item: "thing", price: "amount", money: "currency", place: "city" },
    ways: [
      "{person} paid {amount} {currency} for the {thing} in {city}",
      "in {city} the {thing} of {person} cost {amount} {currency}",
    ],
  },
  {
    kind: "exchange",
    record: { paid: "amount", money: "currency", got: "currency2", bank: "city" },
    ways: [
      "the bank in {city} took {amount} {currency} and gave {currency2}",
      "{amount} {currency} became {currency2} in {city}",
      "the traveller had {amount} {currency} and no {currency2}",
      "nobody in {city} had {currency2}, only {amount} {currency}",
    ],
  },
  {
    kind: "sky",
    record: { place: "city", sky: "sky", heat: "degrees", date: "day" },
    ways: [
      "it was {sky} in {city} {day}, with {degrees} degrees",
      "in {city} the weather was {sky}, {degrees} degrees at noon",
      "{day} the forecast for {city} was {sky}",
      "the people of {city} had {sky} weather {day}",
    ],
  },
  {
    kind: "speech",
    record: { speaker: "person", listener: "person2", words: "statement" },
    ways: [
      "{person} told {person2} that {statement}",
      "{person} said to {person2}: {statement}",
      "the message from {person} to {person2} said that {statement}",
      "{person2} read the words of {person}: {statement}",
      "{person2} knows from {person} that {statement}",
    ],
  },
  {
    kind: "rumour",
    record: { from: "person", content: "statement" },
    ways: [
      "{person} thinks that {statement}",
      "{person} was sure that {statement}",
      "{person} wrote: {statement}",
      "according to {person}, {statement}",
    ],
  },
  {
    kind: "duty",
    record: { who: "person", duty: "chore", date: "day" },
    ways: [
      "{person} had to {chore} {day}",
      "{day} {person} forgot to {chore}",
      "{person} remembered {day} to {chore}",
      "the note of {person} says: {chore}",
    ],
  },
  {
    kind: "plan",
    record: { plan: "chore", hour: "time", owner: "person" },
    ways: [
      "{person} wants to {chore} at {time}",
      "at {time} {person} began to {chore}",
      "{person} promised to {chore} at {time}",
      "a reminder for {person} came at {time}: {chore}",
    ],
  },
  {
    kind: "lesson",
    record: { student: "person", tongue: "language", words: "phrase" },
    ways: [
      'in {language} class {person} learned the words "{phrase}"',
      'the {language} teacher asked {person} about "{phrase}"',
      '{person} heard "{phrase}" and did not know it in {language}',
      'a sign in {language} means "{phrase}"',
      'the {language} book of {person} begins with "{phrase}"',
    ],
  },
  {
    kind: "concert",
    record: { band: "artist", style: "genre", place: "city", date: "day" },
    ways: [
      "{artist} played {genre} in {city} {day}",
      "{day} the {genre} night in {city} began with {artist}",
      "people in {city} like the {genre} of {artist}",
    ],
  },
  {
    kind: "radio",
    record: { place: "room", style: "genre", band: "artist" },
    ways: [
      "the radio in the {room} was full of {genre} by {artist}",
      "songs by {artist} came from the {room}",
      "there was {genre} music in the {room}",
      "an old album by {artist} lies in the {room}",
    ],
  },
  {
    kind: "lamp",
    record: { place: "room", owner: "person" },
    ways: [
      "the light in the {room} was on while {person} slept",
      "the lights in the {room} were off, so {person} saw nothing",
      "{person} likes a bright {room}",
      "it was dark in the {room} of {person}",
      "the lamp in the {room} belongs to {person}",
    ],
  },
  {
    kind: "heating",
    record: { place: "room", heat: "degrees", owner: "person" },
    ways: [
      "it was {degrees} degrees in the {room} of {person}",
      "the thermostat in the {room} showed {degrees} degrees",
      "the {room} got warm, up to {degrees} degrees, and {person} was happy",
      "{person} found the temperature of {degrees} in the {room} too low",
    ],
  },
  {
    kind: "sleep",
    record: { who: "person", length: "duration", place: "room" },
    ways: [
      "{person} slept for {duration} in the {room}",
      "{person} was in the {room} for {duration}",
      "it took {person} {duration} to clean the {room}",
    ],
  },
  {
    kind: "oven",
    record: { dish: "food", length: "duration" },
    ways: [
      "the {food} took {duration}",
      "the {food} was in the oven for {duration}",
      "the timer ran for {duration} while the {food} got hot",
      "after {duration} the {food} was done",
    ],
  },
  {
    kind: "morning",
    record: { who: "person", hour: "time", date: "day" },
    ways: [
      "{person} woke up at {time} {day}",
      "{day} the alarm of {person} rang at {time}",
      "{person} gets up at {time}",
      "{person} left the house {day} at {time}",
    ],
  },
  {
    kind: "train",
    record: { origin: "city", target: "city2", hour: "time", delay: "duration" },
    ways: [
      "the {time} train from {city} to {city2} was {duration} late",
      "the bus to {city2} left {city} at {time} and took {duration}",
      "from {city} to {city2} it is {duration} by car",
    ],
  },
  {
    kind: "talk",
    record: { caller: "person", friend: "person2", topic: "topic", length: "duration" },
    ways: [
      "{person} called {person2} about {topic}",
      "{person} and {person2} talked about {topic} for {duration}",
      "for {duration} {person2} heard from {person} about {topic}",
    ],
  },
  {
    kind: "loss",
    record: { owner: "person", item: "thing", place: "room" },
    ways: [
      "{person} lost the {thing} in the {room}",
      "the {thing} of {person} was in the {room}",
      "{person} put the {thing} on the floor of the {room}",
    ],
  },
];

/** Plain knowledge about the things that the sentences speak of. */
export const facts: readonly string[] = [
  "an alarm clock rings at a set time and wakes people up",
  "a timer counts down and rings when the time is up",
  "a countdown begins with a large number and ends with zero",
  "a reminder helps people to remember what they must not forget",
  "a thermostat keeps the temperature of a room at a set number of degrees",
  "people turn on the light when it is dark and turn it off when it is bright",
  "a switch can turn a lamp on and off",
  "a restaurant lets people book or reserve a table before they come",
  "to translate is to say the same thing in another language",
  "to convert money is to change one currency into another",
  "a forecast says what the weather will be like",
  "an umbrella is good when it will rain, and a jacket when it will snow",
  "a person who needs help can say please, and then thanks",
  "a message is a short text that one person sends to another",
  "some people listen to music when they feel like it, others do not want to hear any",
  "musicians play music, and those who listen can hear it",
  "to hear a song is to listen to it, and to play it is to let others hear it",
  "who lets a friend know something sends a message or tells it",
  "to send a text is to write to somebody, and to tell is to speak",
  "to get something is to have it from then on, and to add is to put one more to the others",
  "it is raining when water falls from the sky, and it is going to rain when the clouds are dark",
  "to put on music is to play it, to put on a jacket is to wear it",
  "to heat a room is to warm it up",
  "what should be is not always what is",
  "to wake somebody up is to get them out of bed",
  "hello and hey are words to begin a talk with",
  "ok means that all is well now",
  "an hour has 60 minutes, and half an hour has 30 minutes",
  "a quarter of an hour is 15 minutes",
  "an hour and a half is 90 minutes, and two hours are 120 minutes",
  "a day has 24 hours and begins at midnight",
  "noon is at 12:00, in the middle of the day",
];
