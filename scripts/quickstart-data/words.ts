/** The people, places and things that the quickstart's sentences speak of. Plain lists, in no order that matters. */

const list = (words: string): readonly string[] => words.split(",").map((word) => word.trim());

/** First names. */
export const people: readonly string[] = list(
  `Anna, Maria, Tom, Ben, Clara, David, Elena, Felix, Grace, Hugo, Ines, Jonas, Karin, Leo, Marta, Nina, Oscar, Paula,
   Rosa, Sam, Tina, Viktor, Wendy, Yusuf, Zoe, Adam, Bella, Carlos, Diana, Emil, Fatima, George, Hanna, Ivan, Julia,
   Kevin, Laura, Miguel, Nora, Omar, Peter, Rachel, Simon, Teresa, Ursula, Walter, Amir, Beatrice, Chloe, Daniel`,
);

/** Cities. */
export const cities: readonly string[] = list(
  `Oslo, Paris, Rome, Madrid, Lisbon, Vienna, Berlin, Prague, Dublin, London, Athens, Warsaw, Geneva, Zurich, Munich,
   Boston, Chicago, Denver, Seattle, Toronto, Montreal, Lima, Bogota, Santiago, Nairobi, Cairo, Tunis, Lagos, Delhi,
   Mumbai, Tokyo, Kyoto, Osaka, Seoul, Hanoi, Manila, Sydney, Perth, Auckland, Helsinki, Stockholm, Copenhagen`,
);

/** Rooms of a house. */
export const rooms: readonly string[] = list(
  `kitchen, bedroom, bathroom, living room, dining room, hallway, office, garage, basement, attic, nursery, study,
   guest room, laundry room, library, pantry`,
);

/** Days as people say them. */
export const days: readonly string[] = list(
  `Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday, today, tomorrow`,
);

/** Languages. */
export const languages: readonly string[] = list(
  `French, German, Spanish, Italian, Portuguese, Dutch, Swedish, Polish, Greek, Turkish, Arabic, Hindi, Japanese,
   Korean, Chinese, Finnish, Danish, Czech`,
);

/** Currencies: singular, plural and ISO 4217 code. */
export const currencies: readonly { readonly one: string; readonly many: string; readonly code: string }[] = [
  { one: "euro", many: "euros", code: "EUR" },
  { one: "dollar", many: "dollars", code: "USD" },
  { one: "pound", many: "pounds", code: "GBP" },
  { one: "yen", many: "yen", code: "JPY" },
  { one: "franc", many: "francs", code: "CHF" },
  { one: "rupee", many: "rupees", code: "INR" },
  { one: "peso", many: "pesos", code: "MXN" },
  { one: "krona", many: "kronor", code: "SEK" },
  { one: "zloty", many: "zlotys", code: "PLN" },
  { one: "lira", many: "lira", code: "TRY" },
];

/** Kinds of music. */
export const genres: readonly string[] = list(
  `jazz, rock, pop, blues, folk, soul, reggae, techno, opera, country, disco, swing, salsa, punk, ambient, funk`,
);

/** Musicians, all invented. */
export const artists: readonly string[] = list(
  `Silver Fox, The Paper Boats, Mira Stone, Northern Lights, Blue Lantern, The Quiet Hour, Red Canyon, Lena Park,
   The Wild Geese, Golden Harbor, Ruby Lane, Winter Garden, The Lost Keys, Marble Sky, Theo Banks, Little Thunder,
   The Morning Train, Velvet River, Nico Bell, Copper Moon`,
);

/** Restaurants, all invented. */
export const restaurants: readonly string[] = list(
  `Casa Verde, Blue Door, The Olive Tree, Luna, Old Mill, Green Garden, La Piazza, The Harbor, Sakura, Red Pepper,
   The Corner Table, Bella Vista, Little India, The Oak Room, Fisher House, Golden Spoon`,
);

/** Things to eat. */
export const foods: readonly string[] = list(
  `soup, pizza, rice, pasta, salad, bread, cheese, curry, fish, cake, eggs, beans, apples, noodles, pancakes, honey`,
);

/** Things one can own, carry and lose. */
export const things: readonly string[] = list(
  `keys, umbrella, wallet, camera, laptop, glasses, ticket, passport, bicycle, jacket, phone, notebook, ladder, guitar,
   suitcase, charger, blanket, basket, hammer, map`,
);

/** Matters to talk about. */
export const topics: readonly string[] = list(
  `the budget, the garden, the wedding, the new school, the repair, the holiday, the exam, the house, the contract,
   the party, the concert, the report, the game, the move, the project, the weather`,
);

/** Weather in one word. */
export const skies: readonly string[] = list(`sunny, cloudy, rainy, windy, foggy, stormy, cold, warm, dry, wet`);

/** Short everyday phrases. */
export const phrases: readonly string[] = list(
  `good morning, thank you very much, where is the station, how much does it cost, I am hungry, see you soon,
   what is your name, the bill please, I do not understand, happy birthday, good night, I like your house,
   can you help me, the food is great, I lost my ticket, we are from Canada, nice to meet you, one coffee please,
   how are you, I need a doctor, it is very cold, my room is too small, have a good trip, we will be back soon`,
);
